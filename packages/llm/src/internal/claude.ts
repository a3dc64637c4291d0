/**
 * What the generations of Claude take and refuse, by the name of the model: the Messages API answers 400 to a setting that
 * a model no longer has or does not have yet. A name that is not known counts as the newest generation.
 */

/** A model's line and generation. */
export interface Claude {
  readonly family: string
  readonly major: number
  readonly minor: number
}

/** `claude-opus-4-7`, `claude-sonnet-4-5-20250929`; a date is no generation. */
const named = /claude-([a-z]+)-(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)/
/** `claude-3-5-sonnet-20241022`, `claude-3-opus-latest`, `claude-2.1`. */
const numbered = /claude-(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)(?:-([a-z]+))?/

/** Which Claude a model's name means; `undefined` for models that are none, of servers that imitate the API. */
export const claudeOf = (model: string): Claude | undefined => {
  const name = model.toLowerCase()
  const newer = named.exec(name)
  if (newer !== null) return { family: newer[1] ?? "", major: Number(newer[2]), minor: Number(newer[3] ?? 0) }
  const older = numbered.exec(name)
  if (older !== null) return { family: older[3] ?? "", major: Number(older[1]), minor: Number(older[2] ?? 0) }
  return name.includes("claude") ? { family: "", major: Number.POSITIVE_INFINITY, minor: 0 } : undefined
}

const atLeast = (claude: Claude, major: number, minor: number): boolean =>
  claude.major > major || (claude.major === major && claude.minor >= minor)

/** What a model takes. */
export interface Abilities {
  /** The tokens that an answer may have where the request does not say. */
  readonly maxTokens: number
  /** `thinking`: with a budget, as the model sees fit, or none at all. */
  readonly thinking: "none" | "budget" | "adaptive"
  /** The words of `effort`, the least first; none where the model does not know it. */
  readonly efforts: ReadonlyArray<string>
  /** Its thinking is not shown unless that is asked for: a streamed answer would be silent for minutes. */
  readonly silent: boolean
  /** What asks for no thinking at all; `low` where that cannot be had and the least effort must do. */
  readonly off: "omit" | "disabled" | "between_tools" | "low"
  /** `temperature`, `top_p` and `top_k`: all, only one of the first two, or none. */
  readonly sampling: "all" | "one" | "none"
  /** Tools and answers that are held to a schema. */
  readonly strict: boolean
}

/** The generation that thinks as it sees fit and has no settings of sampling any more. */
const isNewest = (claude: Claude): boolean => {
  switch (claude.family) {
    case "opus":
      return atLeast(claude, 4, 7)
    case "sonnet":
    case "haiku":
      return atLeast(claude, 5, 0)
    default:
      return claude.major >= 5
  }
}

const offOf = (claude: Claude): Abilities["off"] => {
  switch (claude.family) {
    case "opus":
      return atLeast(claude, 5, 5) ? "low" : "disabled"
    case "sonnet":
      return atLeast(claude, 5, 5) ? "between_tools" : "disabled"
    case "haiku":
      return "disabled"
    default:
      return "low"
  }
}

const allEfforts = ["low", "medium", "high", "xhigh", "max"]

/** The effort itself, or the next below it that the model takes; words that are not known are left to the model. */
export const effortOf = (effort: string, { efforts }: Abilities): string => {
  const rank = allEfforts.indexOf(effort === "minimal" ? "low" : effort)
  return rank === -1 ? effort : (efforts.findLast((each) => allEfforts.indexOf(each) <= rank) ?? effort)
}

const maxTokensOf = (claude: Claude): number => {
  if (atLeast(claude, 4, 5)) return 64_000
  // Their window of 200,000 tokens must hold the prompt and the whole of the limit.
  if (atLeast(claude, 3, 7)) return 32_000
  return atLeast(claude, 3, 5) ? 8192 : 4096
}

/** What the model of this name takes. */
export const abilitiesOf = (model: string): Abilities => {
  const claude = claudeOf(model)
  if (claude === undefined) {
    return {
      maxTokens: 8192,
      thinking: "budget",
      efforts: [],
      silent: false,
      off: "disabled",
      sampling: "all",
      strict: false
    }
  }
  const maxTokens = maxTokensOf(claude)
  const strict = atLeast(claude, 4, 5)
  if (isNewest(claude)) {
    const off = offOf(claude)
    return { maxTokens, thinking: "adaptive", efforts: allEfforts, silent: true, off, sampling: "none", strict }
  }
  const one = atLeast(claude, 4, 5) || (claude.family === "opus" && atLeast(claude, 4, 1))
  return {
    maxTokens,
    thinking: atLeast(claude, 4, 6) ? "adaptive" : atLeast(claude, 3, 7) ? "budget" : "none",
    efforts: atLeast(claude, 4, 6)
      ? ["low", "medium", "high", "max"]
      : claude.family === "opus" && atLeast(claude, 4, 5)
        ? ["low", "medium", "high"]
        : [],
    silent: false,
    off: "omit",
    sampling: one ? "one" : "all",
    strict
  }
}
