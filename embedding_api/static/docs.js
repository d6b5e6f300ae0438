SwaggerUIBundle({
  dom_id: "#docs",
  url: "openapi.json",
  deepLinking: true,
  displayRequestDuration: true,
  // The default validator is another site's, which would be sent the description.
  validatorUrl: null,
});
