// What OHIF is told by Readgate. Copied as it stands into the built viewer; served uncached, so that a hospital may change it.
window.config = {
  name: 'readgate',
  routerBasename: '/ohif',
  extensions: [],
  modes: [],
  showStudyList: false, // the worklist is Readgate's own; OHIF opens one claimed study
  maxNumberOfWebWorkers: 3,
  showLoadingIndicator: true,
  showWarningMessageForCrossOrigin: false,
  showCPUFallbackMessage: false,
  // OHIF is not a cleared medical device. Its own notice stays, and is asked for again after a year.
  investigationalUseDialog: { option: 'configure', days: 365 },
  strictZSpacingForVolumeViewport: true,
  showErrorDetails: 'production',
  // No tour in front of a study. Priors are opened by the reading page, which knows what the claim grants.
  customizationService: [{ 'ohif.tours': { $set: [] }, 'studyBrowser.studyMode': { $set: 'primary' } }],
  disableConfirmationPrompts: true,
  measurementTrackingMode: 'simplified',
  maxNumRequests: { interaction: 100, thumbnail: 5, prefetch: 25 },
  // Without a handler a failed request ends in a second error inside OHIF that hides the first one.
  // The reading page is told the status alone: it knows whether the login, the claim or the decision has ended.
  httpErrorHandler: function (error) {
    var request = (error && (error.request || error.target)) || {};
    var status = Number(request.status || (error && error.status) || 0);
    if (window.parent !== window) {
      window.parent.postMessage({ kind: 'readgate-viewer-error', status: status }, window.location.origin);
    }
  },
  whiteLabeling: {
    // No link: inside the frame of the reading page there is nowhere else to go.
    createLogoComponentFn: function (React) {
      return React.createElement('span', { className: 'text-white', style: { fontWeight: 700, padding: '0 8px' } }, 'Readgate');
    },
  },
  defaultDataSourceName: 'readgate',
  dataSources: [
    {
      namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
      sourceName: 'readgate',
      configuration: {
        friendlyName: 'Readgate',
        name: 'readgate',
        qidoRoot: '/dicom-web',
        wadoRoot: '/dicom-web',
        wadoUriRoot: '/dicom-web',
        qidoSupportsIncludeField: true,
        imageRendering: 'wadors',
        thumbnailRendering: 'wadors', // drawn by the client from frames: the server renders nothing
        enableStudyLazyLoad: true,
        supportsFuzzyMatching: false,
        supportsWildcard: true,
        supportsReject: false,
        dicomUploadEnabled: false,
        omitQuotationForMultipartRequest: true,
        singlepart: 'bulkdata,pdf,video',
        bulkDataURI: { enabled: true, relativeResolution: 'studies' },
      },
    },
  ],
};
