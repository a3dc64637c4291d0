/**
 * How settings are spoken of in problems: paths, and values without showing them.
 */
import type { Origin, Problem } from "../../config/SettingsError.ts"
import { indexOf, variableFor } from "./settingsEnvironment.ts"
import type { Found } from "./settingsTree.ts"

/** `["llm", "models", "[0]", "name"]` is `llm.models[0].name`. */
export const pathText = (path: ReadonlyArray<string>): string =>
  path.reduce(
    (text, segment) => (indexOf(segment) !== undefined ? text + segment : text === "" ? segment : `${text}.${segment}`),
    ""
  )

/** `llm.models[0].name` is `["llm", "models", "[0]", "name"]`. */
export const pathFrom = (text: string): ReadonlyArray<string> =>
  text
    .replace(/\[(\d+)\]/g, ".[$1]")
    .split(".")
    .filter((segment) => segment !== "")

const counted = (count: number, one: string): string => `${count} ${one}${count === 1 ? "" : "s"}`

/** What a value is, without what it holds. */
export const foundText = (found: Found): string => {
  switch (found._tag) {
    case "Scalar":
      return typeof found.value === "string"
        ? found.value === ""
          ? "empty text"
          : `text of ${counted(found.value.length, "character")}`
        : `a ${typeof found.value}`
    case "List":
      return `a list of ${counted(found.items.length, "item")}`
    case "Numbered":
      return `a list of ${counted(found.count, "item")}`
    case "Table":
      return "a table"
    default:
      return "nothing"
  }
}

export const originOf = (found: Found): Origin | undefined => ("origin" in found ? found.origin : undefined)

/** A required setting that has no value, with what is known of why, and how to give it one. */
export const missing = (
  path: ReadonlyArray<string>,
  found: Found | undefined,
  expected: string | undefined
): Problem => {
  const origin = found === undefined ? undefined : originOf(found)
  const variable = variableFor(path)
  const text = pathText(path)
  const why = found?._tag === "Absent" ? `${found.why}; ` : found?._tag === "Scalar" ? "it is empty; " : ""
  return {
    reason: "missing",
    path: text,
    ...(origin === undefined ? {} : { origin }),
    ...(expected === undefined ? {} : { expected }),
    detail: `${why}set ${text} in a file of settings or the variable ${variable}`
  }
}

/** A setting whose value does not fit. */
export const invalid = (
  path: ReadonlyArray<string>,
  found: Found | undefined,
  expected: string | undefined,
  detail?: string
): Problem => {
  const origin = found === undefined ? undefined : originOf(found)
  return {
    reason: "invalid",
    path: pathText(path),
    ...(origin === undefined ? {} : { origin }),
    ...(expected === undefined ? {} : { expected }),
    ...(found === undefined ? {} : { found: foundText(found) }),
    ...(detail === undefined ? {} : { detail })
  }
}

/** A message of someone else's without the values that it may quote. */
export const withoutValues = (message: string, values: ReadonlyArray<string>): string =>
  Array.from(new Set(values))
    .filter((value) => value.trim() !== "")
    .sort((a, b) => b.length - a.length)
    .reduce(
      (text, value) =>
        [value, JSON.stringify(value).slice(1, -1), value.trim()].reduce(
          (inner, form) => inner.split(form).join("<redacted>"),
          text
        ),
      message
    )
