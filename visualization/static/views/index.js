// The views, in the order of the header. A view: {title, keys: parameters whose change mounts it anew, needsExperiment, mount(context) → node}.

import { apiPage } from "./api.js";
import { extraction } from "./extraction.js";
import { overview } from "./overview.js";
import { steering } from "./steering.js";

export const VIEWS = { overview, extraction, steering, api: apiPage };
