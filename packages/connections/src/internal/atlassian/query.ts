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

const valueText = (value: Value): string =>
  typeof value === "string" ? quote(value) : typeof value === "number" ? String(value) : value.call

const valuesText = (values: ReadonlyArray<Value>): string => `(${values.map(valueText).join(", ")})`

const join = (word: string, clauses: ReadonlyArray<string>): string => {
  const some = clauses.filter((clause) => clause.trim() !== "")
  return some.length === 1 ? (some[0] ?? "") : some.map((clause) => `(${clause})`).join(` ${word} `)
}

/** A text in which nothing has a meaning for searches in texts. */
const searchText = (text: string): string => text.replace(/[+\-&|!(){}[\]^~*?\\:"/]/g, "\\$&")

/** What both languages have. All that comes from outside is quoted; each function gives a text. */
export interface Operators {
  /** A text as a value. */
  readonly quote: (text: string) => string
  readonly eq: (field: string, value: Value) => string
  readonly ne: (field: string, value: Value) => string
  readonly gt: (field: string, value: Value) => string
  readonly gte: (field: string, value: Value) => string
  readonly lt: (field: string, value: Value) => string
  readonly lte: (field: string, value: Value) => string
  /** Nothing is in an empty list: the service refuses one, so it becomes a clause that nothing meets. */
  readonly in: (field: string, values: ReadonlyArray<Value>) => string
  readonly notIn: (field: string, values: ReadonlyArray<Value>) => string
  /** Words in a text field; what has a meaning in searches for text is taken as it is. */
  readonly contains: (field: string, text: string) => string
  /** A function of the service as a value: `call("now", "-4w")`. Its name is not quoted. */
  readonly call: (name: string, ...values: ReadonlyArray<string>) => { readonly call: string }
  readonly and: (...clauses: ReadonlyArray<string>) => string
  readonly or: (...clauses: ReadonlyArray<string>) => string
  readonly not: (clause: string) => string
  readonly orderBy: (
    clause: string,
    ...orders: ReadonlyArray<readonly [field: string, direction: "asc" | "desc"]>
  ) => string
}

/** Of a language that writes a field like that, with a clause that nothing meets, and one that everything does. */
export const operators = (fieldText: (field: string) => string, nothing: string, everything: string): Operators => {
  const compare = (operator: string) => (field: string, value: Value) =>
    `${fieldText(field)} ${operator} ${valueText(value)}`
  return {
    quote,
    eq: compare("="),
    ne: compare("!="),
    gt: compare(">"),
    gte: compare(">="),
    lt: compare("<"),
    lte: compare("<="),
    in: (field, values) => (values.length === 0 ? nothing : `${fieldText(field)} in ${valuesText(values)}`),
    notIn: (field, values) => (values.length === 0 ? everything : `${fieldText(field)} not in ${valuesText(values)}`),
    contains: (field, text) => `${fieldText(field)} ~ ${quote(searchText(text))}`,
    call: (name, ...values) => ({ call: `${name.replace(/[^\w.]/g, "")}(${values.map(quote).join(", ")})` }),
    and: (...clauses) => join("AND", clauses),
    or: (...clauses) => join("OR", clauses),
    not: (clause) => `NOT (${clause})`,
    orderBy: (clause, ...orders) => {
      const by = orders.map(([field, direction]) => `${fieldText(field)} ${direction.toUpperCase()}`)
      return by.length === 0 ? clause : `${clause} ORDER BY ${by.join(", ")}`.trim()
    }
  }
}
