const main = document.getElementById("docs");
SwaggerUIBundle({
  domNode: main,
  url: main.dataset.description,
  deepLinking: true,
  displayRequestDuration: true,
  // The default validator is another site's, which would be sent the description.
  validatorUrl: null,
});
