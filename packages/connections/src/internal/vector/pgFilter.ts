/** The portable filter as a condition of PostgreSQL on a column `metadata` of type jsonb. */
import type { Filter } from "@underlay/core/storage/VectorStore"

// The index on metadata can be asked for that many values at once; more are looked up row by row, by their hash.
const mostByIndex = 100

/** A filter as a condition that is never NULL, with its parameters added to `params`. */
export const compile = (filter: Filter.Filter, params: Array<unknown>): string => {
  const param = (value: unknown, type: string): string => `$${params.push(value)}::${type}`
  const having = (key: string, value: Filter.Value): string => JSON.stringify({ [key]: value })
  // Containment uses the index, and is false, not NULL, where the key is absent.
  const equals = (key: string, value: Filter.Value): string => `metadata @> ${param(having(key, value), "jsonb")}`
  const among = (key: string, values: ReadonlyArray<Filter.Value>): string => {
    if (values.length === 0) return "false"
    if (values.length <= mostByIndex) {
      return `metadata @> any(${param(
        values.map((value) => having(key, value)),
        "jsonb[]"
      )})`
    }
    return `coalesce(metadata -> ${param(key, "text")} = any(${param(
      values.map((value) => JSON.stringify(value)),
      "jsonb[]"
    )}), false)`
  }
  const range = (key: string, operator: string, value: number): string => {
    const at = param(key, "text")
    return (
      `case when jsonb_typeof(metadata -> ${at}) = 'number' ` +
      `then (metadata ->> ${at})::float8 ${operator} ${param(value, "float8")} else false end`
    )
  }
  const all = (filters: ReadonlyArray<Filter.Filter>, word: string, none: string): string =>
    filters.length === 0 ? none : `(${filters.map((each) => compile(each, params)).join(` ${word} `)})`
  switch (filter.op) {
    case "and":
      return all(filter.filters, "and", "true")
    case "or":
      return all(filter.filters, "or", "false")
    case "not":
      return `not (${compile(filter.filter, params)})`
    case "eq":
      return equals(filter.key, filter.value)
    case "ne":
      return `not (${equals(filter.key, filter.value)})`
    case "in":
      return among(filter.key, filter.values)
    case "nin":
      return `not (${among(filter.key, filter.values)})`
    case "gt":
      return range(filter.key, ">", filter.value)
    case "gte":
      return range(filter.key, ">=", filter.value)
    case "lt":
      return range(filter.key, "<", filter.value)
    case "lte":
      return range(filter.key, "<=", filter.value)
    case "exists":
      return `metadata ? ${param(filter.key, "text")}`
  }
}
