SwaggerUIBundle({
  dom_id: "#docs",
  url: "openapi.json",
  deepLinking: true,
  displayRequestDuration: true,
  // The default would send the description to another site's validator.
  validatorUrl: null,
});
