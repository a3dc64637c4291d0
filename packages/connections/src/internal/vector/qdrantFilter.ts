/**
 * Filters in the language of Qdrant: `must`, `should` and `must_not` over payload keys.
 */
import type { Filter as Filters } from "@underlay/core/storage/VectorStore"

type Filter = Filters.Filter
type Value = Filters.Value

/** A condition on a key, on ids, or a filter in a filter. */
export type Condition =
  | { readonly key: string; readonly match: { readonly value: string | boolean } }
  | { readonly key: string; readonly match: { readonly any: ReadonlyArray<string> } }
  | { readonly key: string; readonly range: Range }
  | { readonly is_empty: { readonly key: string } }
  | { readonly has_id: ReadonlyArray<string | number> }
  | QdrantFilter

interface Range {
  readonly gt?: number
  readonly gte?: number
  readonly lt?: number
  readonly lte?: number
}

/** One condition stands alone, without an array: every level of nesting counts against the server's limit. */
type Conditions = Condition | ReadonlyArray<Condition>

export interface QdrantFilter {
  readonly must?: Conditions
  readonly should?: Conditions
  readonly must_not?: Conditions
}

/** The part of a payload that holds the metadata. */
export const metadataKey = "metadata"

/**
 * A metadata key as the payload has it: in a path a key is quoted, and a quoted key cannot hold a quote or a backslash,
 * by no means. These, and the percent sign, are kept as in an address.
 */
export const keyOf = (key: string): string =>
  unquotable.test(key)
    ? key.replace(/["\\%]/g, (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`)
    : key

const unquotable = /["\\%]/

/** The metadata key of a payload's. */
export const keyFrom = (key: string): string =>
  key.includes("%")
    ? key.replace(/%(22|5C|25)/g, (_, code: string) => String.fromCharCode(Number.parseInt(code, 16)))
    : key

/** The path of a metadata key in a payload, with quotes where the server prints them. */
export const pathOf = (key: string): string =>
  /^[\p{Alphabetic}\p{N}_-]+$/u.test(key) ? `${metadataKey}.${key}` : `${metadataKey}."${keyOf(key)}"`

const nothing: Condition = { has_id: [] }
const everything: Condition = { must_not: nothing }

const isCondition = (conditions: Conditions): conditions is Condition => !Array.isArray(conditions)

const one = (conditions: ReadonlyArray<Condition>): Conditions => {
  const [only] = conditions
  return conditions.length === 1 && only !== undefined ? only : conditions
}

/** Whether a condition is a filter, which another can take over. */
const isFilter = (condition: Condition): condition is QdrantFilter =>
  "must" in condition || "should" in condition || "must_not" in condition

const list = (conditions: Conditions | undefined): ReadonlyArray<Condition> =>
  conditions === undefined ? [] : isCondition(conditions) ? [conditions] : conditions

const filterOf = (
  must: ReadonlyArray<Condition>,
  should: ReadonlyArray<Condition>,
  mustNot: ReadonlyArray<Condition>
): QdrantFilter => ({
  ...(must.length === 0 ? {} : { must: one(must) }),
  ...(should.length === 0 ? {} : { should: one(should) }),
  ...(mustNot.length === 0 ? {} : { must_not: one(mustNot) })
})

/** All of them, as one filter: what they require and what they forbid comes together, and so does one choice. */
const all = (conditions: ReadonlyArray<Condition>): Condition => {
  if (conditions.length === 0) return everything
  const must: Array<Condition> = []
  const mustNot: Array<Condition> = []
  let should: ReadonlyArray<Condition> = []
  for (const condition of conditions) {
    if (!isFilter(condition)) {
      must.push(condition)
      continue
    }
    const choice = list(condition.should)
    if (choice.length > 0 && should.length > 0) {
      must.push(condition)
      continue
    }
    must.push(...list(condition.must))
    mustNot.push(...list(condition.must_not))
    if (choice.length > 0) should = choice
  }
  const [only] = must
  return must.length === 1 && only !== undefined && should.length === 0 && mustNot.length === 0
    ? only
    : filterOf(must, should, mustNot)
}

const any = (conditions: ReadonlyArray<Condition>): Condition => {
  const [only] = conditions
  if (only === undefined) return nothing
  if (conditions.length === 1) return only
  // a choice that is nothing else joins the choice around it
  const flat = conditions.flatMap((each) =>
    isFilter(each) && each.should !== undefined && each.must === undefined && each.must_not === undefined
      ? list(each.should)
      : [each]
  )
  return { should: flat }
}

const none = (condition: Condition): Condition => {
  if (isFilter(condition) && condition.must === undefined) {
    const choice = list(condition.should)
    const forbidden = list(condition.must_not)
    // not(any of them) forbids each; not(not x) is x; not(not a and not b) is a or b
    if (forbidden.length === 0 && choice.length > 0) return { must_not: one(choice) }
    if (choice.length === 0 && forbidden.length > 0) return any(forbidden)
  }
  return { must_not: condition }
}

/** A number has no match, for it may be a fraction: it is a range of one. */
const equals = (key: string, value: Value): Condition =>
  typeof value === "number" ? { key, range: { gte: value, lte: value } } : { key, match: { value } }

const among = (key: string, values: ReadonlyArray<Value>): Condition => {
  const strings = new Set<string>()
  const others = new Set<number | boolean>()
  for (const value of values) {
    if (typeof value === "string") strings.add(value)
    else others.add(value)
  }
  const conditions: Array<Condition> = [...others].map((value) => equals(key, value))
  if (strings.size > 0) conditions.push({ key, match: { any: [...strings] } })
  return any(conditions)
}

const conditionOf = (filter: Filter): Condition => {
  switch (filter.op) {
    case "and":
      return all(filter.filters.map(conditionOf))
    case "or":
      return any(filter.filters.map(conditionOf))
    case "not":
      return none(conditionOf(filter.filter))
    case "eq":
      return equals(pathOf(filter.key), filter.value)
    case "ne":
      return none(equals(pathOf(filter.key), filter.value))
    case "in":
      return among(pathOf(filter.key), filter.values)
    case "nin":
      return none(among(pathOf(filter.key), filter.values))
    case "gt":
      return { key: pathOf(filter.key), range: { gt: filter.value } }
    case "gte":
      return { key: pathOf(filter.key), range: { gte: filter.value } }
    case "lt":
      return { key: pathOf(filter.key), range: { lt: filter.value } }
    case "lte":
      return { key: pathOf(filter.key), range: { lte: filter.value } }
    case "exists":
      return { must_not: { is_empty: { key: pathOf(filter.key) } } }
  }
}

/** A filter of the port as one of Qdrant. */
export const compile = (filter: Filter): QdrantFilter => {
  const condition = conditionOf(filter)
  return isFilter(condition) ? condition : { must: condition }
}
