// OHIF 3.13 over a PACS with DICOMweb, opening the explanation beside the radiograph: docs/pacs/ohif.md.
// Serve it as /app-config.js of OHIF, with /dicom-web of the same host passed on to the PACS.

const NODE = "NOT FOR DIAGNOSIS - AI"; // how Series Description of every result begins
const RADIOGRAPHS = ["CR", "DX", "DR", "RG"];

const series = (attribute, constraint) => ({ attribute, constraint, required: true });
const viewport = (id, options = {}) => ({
  viewportOptions: { viewportType: "stack", allowUnmatchedView: true, ...options },
  displaySets: [{ id }],
});
// A margin for what OHIF writes into the corners: the picture has lines of its own above and below.
const margin = { displayArea: { imageArea: [1.2, 1.2], storeAsInitialCamera: true } };

const explained = {
  id: "explained-radiograph",
  name: "Radiograph and explanation",
  protocolMatchingRules: [],
  toolGroupIds: ["default"],
  numberOfPriorsReferenced: 0,
  displaySetSelectors: {
    radiograph: { seriesMatchingRules: [series("Modality", { includes: { value: RADIOGRAPHS } })] },
    explanation: {
      seriesMatchingRules: [series("SeriesDescription", { startsWith: { value: `${NODE} secondary capture` } })],
    },
  },
  stages: [
    {
      name: "radiograph | explanation",
      viewportStructure: { layoutType: "grid", properties: { rows: 1, columns: 2 } },
      viewports: [viewport("radiograph"), viewport("explanation", margin)],
    },
  ],
};

const hasExplanation = (displaySets) =>
  displaySets.some((one) => RADIOGRAPHS.includes(one.Modality)) &&
  displaySets.some((one) => (one.SeriesDescription ?? "").startsWith(`${NODE} secondary capture`));

// OHIF's modes ask for the protocol "default": a study that has both gets ours.
const extension = {
  id: "explained-radiograph",
  getHangingProtocolModule: () => [{ name: explained.id, protocol: explained }],
  preRegistration: ({ servicesManager }) => {
    const service = servicesManager.services.hangingProtocolService;
    const run = service.run.bind(service);
    service.run = (data, id, options) =>
      run(data, id === "default" && hasExplanation(data.displaySets ?? []) ? explained.id : id, options);
  },
};

window.config = {
  routerBasename: "/",
  extensions: [extension],
  modes: [],
  showStudyList: true,
  maxNumberOfWebWorkers: 2,
  showLoadingIndicator: true,
  showWarningMessageForCrossOrigin: false,
  investigationalUseDialog: { option: "never" },
  customizationService: [
    { autoCineModalities: { $set: ["US"] } }, // no player over pictures (OT); the button in the tool bar has it
  ],
  defaultDataSourceName: "pacs",
  dataSources: [
    {
      namespace: "@ohif/extension-default.dataSourcesModule.dicomweb",
      sourceName: "pacs",
      configuration: {
        friendlyName: "PACS",
        name: "pacs",
        wadoUriRoot: "/dicom-web",
        qidoRoot: "/dicom-web",
        wadoRoot: "/dicom-web",
        qidoSupportsIncludeField: false,
        supportsFuzzyMatching: false,
        supportsWildcard: true,
        imageRendering: "wadors",
        thumbnailRendering: "wadors",
        enableStudyLazyLoad: true,
        bulkDataURI: { enabled: true },
        omitQuotationForMultipartRequest: true,
      },
    },
  ],
};
