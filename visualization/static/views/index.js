// The views, in the order of the header. A view: {title, keys: parameters whose change mounts it anew, needsExperiment, mount(context) → node}.

import { apiPage } from "./api.js";
import { chat } from "./chat.js";
import { dynamics } from "./dynamics.js";
import { extraction } from "./extraction.js";
import { groups } from "./groups.js";
import { overview } from "./overview.js";
import { rollouts } from "./rollouts.js";
import { steering } from "./steering.js";
import { training } from "./training.js";

export const VIEWS = { overview, extraction, training, steering, rollouts, dynamics, groups, chat, api: apiPage };
