/**
 * What the query languages of Jira (JQL) and Confluence (CQL) have in common.
 */

/** A value in a query: a text, a number, or a function with its arguments. */
export type Value = string | number | { readonly call: string }

const escapes: Readonly<Record<string, string>> = { '"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t" }

export const quote = (text: string): string =>
  `"${text.replace(
    // biome-ignore lint/suspicious/noControlCharactersInRegex: those are what is escaped
    /["\\\u0000-\u001f]/g,
    (char) => escapes[char] ?? `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`
  )}"`

export const valueText = (value: Value): string =>
  typeof value === "string" ? quote(value) : typeof value === "number" ? String(value) : value.call

export const valuesText = (values: ReadonlyArray<Value>): string => `(${values.map(valueText).join(", ")})`

export const join = (word: string, clauses: ReadonlyArray<string>): string => {
  const some = clauses.filter((clause) => clause.trim() !== "")
  return some.length === 1 ? (some[0] ?? "") : some.map((clause) => `(${clause})`).join(` ${word} `)
}

/** A text in which nothing has a meaning for searches in texts. */
export const searchText = (text: string): string => text.replace(/[+\-&|!(){}[\]^~*?\\:"/]/g, "\\$&")
