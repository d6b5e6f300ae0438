"""Response bodies by orjson, which writes a float32 array without making Python floats of it."""

import orjson
from flask.json.provider import JSONProvider


class OrjsonProvider(JSONProvider):
    """Flask's JSON provider; a NumPy array becomes nested lists, a float32 its shortest exact decimal."""

    def dumps(self, obj, **kwargs):
        return self._dump(obj).decode()

    def loads(self, s, **kwargs):
        return orjson.loads(s)

    def response(self, *args, **kwargs):
        return self._app.response_class(
            self._dump(self._prepare_response_obj(args, kwargs)), mimetype="application/json"
        )

    @staticmethod
    def _dump(obj):
        return orjson.dumps(obj, option=orjson.OPT_SERIALIZE_NUMPY)
