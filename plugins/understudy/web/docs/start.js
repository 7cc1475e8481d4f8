"use strict";

// validatorUrl: null keeps Swagger UI from asking its maker's host to validate the description.
window.SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#page",
  validatorUrl: null,
  defaultModelsExpandDepth: 0,
  docExpansion: "list",
  requestSnippetsEnabled: true,
});
