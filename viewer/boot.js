// The two inline scripts of OHIF's own index.html, in a file: the content security policy allows none inline.
window.PUBLIC_URL = '/ohif/';
window.browserImportFunction = function (name) {
  return import(name);
};
