// OHIF on the appliance's own DICOMweb: one data source, no request to another host.
window.config = {
  name: 'understudy',
  routerBasename: '/ohif',
  extensions: [],
  modes: [],
  customizationService: {
    global: {
      // No tour of eleven steps before the first image of every new browser.
      'ohif.tours': { $set: [] },
      // The older list shows patient ID and accession number in columns, and shows studies on a narrow screen at all.
      'workList.variant': { $set: 'legacy' },
    },
  },
  // Whose images these are is on the screen without a click.
  showPatientInfo: 'visible',
  showStudyList: true,
  maxNumberOfWebWorkers: 2,
  showWarningMessageForCrossOrigin: false,
  showCPUFallbackMessage: true,
  showLoadingIndicator: true,
  strictZSpacingForVolumeViewport: true,
  groupEnabledModesFirst: true,
  // Orthanc answers from a bounded set of threads that other readers share.
  maxNumRequests: { interaction: 20, thumbnail: 5, prefetch: 10 },
  showErrorDetails: 'production',
  // The viewer calls itself investigational; every reader shall see that once a session.
  investigationalUseDialog: { option: 'always' },
  defaultDataSourceName: 'understudy',
  dataSources: [
    {
      namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
      sourceName: 'understudy',
      configuration: {
        friendlyName: 'Understudy',
        name: 'understudy',
        qidoRoot: '/dicom-web',
        wadoRoot: '/dicom-web',
        wadoUriRoot: '/dicom-web',
        qidoSupportsIncludeField: false,
        supportsReject: false,
        supportsFuzzyMatching: false,
        supportsWildcard: true,
        imageRendering: 'wadors',
        thumbnailRendering: 'wadors',
        enableStudyLazyLoad: true,
        staticWado: false,
        dicomUploadEnabled: false,
        bulkDataURI: { enabled: true },
        omitQuotationForMultipartRequest: true,
      },
    },
  ],
};
