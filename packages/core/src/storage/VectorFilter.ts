/**
 * Filters over the metadata of vector records: data that every store compiles to its own language, with one meaning.
 *
 * A comparison is a set of records and `not` is its complement: `ne`, `nin` and `not` also match records that lack the
 * key. Equality is strict (`1`, `"1"` and `true` differ; `2` and `2.0` do not). Ranges hold for numbers only; a string
 * or a boolean is in no range.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"

/**
 * A value of metadata: a string, a finite number or a boolean.
 *
 * @since 0.1.0
 * @category models
 */
export const Value = Schema.Union(Schema.String, Schema.Finite, Schema.Boolean)
/**
 * @since 0.1.0
 * @category models
 */
export type Value = typeof Value.Type

/**
 * What a record knows of itself: a flat record of values.
 *
 * @since 0.1.0
 * @category models
 */
export const Metadata = Schema.Record({ key: Schema.String, value: Value })
/**
 * @since 0.1.0
 * @category models
 */
export type Metadata = typeof Metadata.Type

/**
 * A filter as data.
 *
 * @since 0.1.0
 * @category models
 */
export type Filter =
  | { readonly op: "and"; readonly filters: ReadonlyArray<Filter> }
  | { readonly op: "or"; readonly filters: ReadonlyArray<Filter> }
  | { readonly op: "not"; readonly filter: Filter }
  | { readonly op: "eq" | "ne"; readonly key: string; readonly value: Value }
  | { readonly op: "in" | "nin"; readonly key: string; readonly values: ReadonlyArray<Value> }
  | { readonly op: "gt" | "gte" | "lt" | "lte"; readonly key: string; readonly value: number }
  | { readonly op: "exists"; readonly key: string }

const Key = Schema.NonEmptyString

/**
 * The schema of filters, for those that come from outside.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Filter: Schema.Schema<Filter> = Schema.Union(
  Schema.Struct({
    op: Schema.Literal("and", "or"),
    filters: Schema.Array(Schema.suspend((): Schema.Schema<Filter> => Filter))
  }),
  Schema.Struct({ op: Schema.Literal("not"), filter: Schema.suspend((): Schema.Schema<Filter> => Filter) }),
  Schema.Struct({ op: Schema.Literal("eq", "ne"), key: Key, value: Value }),
  Schema.Struct({ op: Schema.Literal("in", "nin"), key: Key, values: Schema.Array(Value) }),
  Schema.Struct({ op: Schema.Literal("gt", "gte", "lt", "lte"), key: Key, value: Schema.Finite }),
  Schema.Struct({ op: Schema.Literal("exists"), key: Key })
)

/**
 * All of `filters`; without any, every record.
 *
 * @since 0.1.0
 * @category constructors
 */
export const and = (...filters: ReadonlyArray<Filter>): Filter => ({ op: "and", filters })

/**
 * Any of `filters`; without any, no record.
 *
 * @since 0.1.0
 * @category constructors
 */
export const or = (...filters: ReadonlyArray<Filter>): Filter => ({ op: "or", filters })

/**
 * The records that `filter` does not match.
 *
 * @since 0.1.0
 * @category constructors
 */
export const not = (filter: Filter): Filter => ({ op: "not", filter })

/**
 * The key is there with exactly this value.
 *
 * @since 0.1.0
 * @category constructors
 */
export const eq = (key: string, value: Value): Filter => ({ op: "eq", key, value })

/**
 * The key is absent or has another value.
 *
 * @since 0.1.0
 * @category constructors
 */
export const ne = (key: string, value: Value): Filter => ({ op: "ne", key, value })

const in_ = (key: string, values: ReadonlyArray<Value>): Filter => ({ op: "in", key, values })

export {
  /**
   * The key is there with one of these values.
   *
   * @since 0.1.0
   * @category constructors
   */
  in_ as in
}

/**
 * The key is absent or has none of these values.
 *
 * @since 0.1.0
 * @category constructors
 */
export const nin = (key: string, values: ReadonlyArray<Value>): Filter => ({ op: "nin", key, values })

/**
 * The key is a number above `value`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const gt = (key: string, value: number): Filter => ({ op: "gt", key, value })

/**
 * The key is a number, `value` or above.
 *
 * @since 0.1.0
 * @category constructors
 */
export const gte = (key: string, value: number): Filter => ({ op: "gte", key, value })

/**
 * The key is a number below `value`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const lt = (key: string, value: number): Filter => ({ op: "lt", key, value })

/**
 * The key is a number, `value` or below.
 *
 * @since 0.1.0
 * @category constructors
 */
export const lte = (key: string, value: number): Filter => ({ op: "lte", key, value })

/**
 * The key is there.
 *
 * @since 0.1.0
 * @category constructors
 */
export const exists = (key: string): Filter => ({ op: "exists", key })

const valueOf = (metadata: Metadata, key: string): Value | undefined =>
  Object.hasOwn(metadata, key) ? metadata[key] : undefined

const numberAt = (metadata: Metadata, key: string): number => {
  const value = valueOf(metadata, key)
  return typeof value === "number" ? value : Number.NaN
}

/**
 * The reference evaluator: what every store's answer is compared with.
 *
 * @since 0.1.0
 * @category combinators
 */
export const matches = (filter: Filter, metadata: Metadata): boolean => {
  switch (filter.op) {
    case "and":
      return filter.filters.every((each) => matches(each, metadata))
    case "or":
      return filter.filters.some((each) => matches(each, metadata))
    case "not":
      return !matches(filter.filter, metadata)
    case "eq":
      return valueOf(metadata, filter.key) === filter.value
    case "ne":
      return valueOf(metadata, filter.key) !== filter.value
    case "in": {
      const value = valueOf(metadata, filter.key)
      return value !== undefined && filter.values.includes(value)
    }
    case "nin": {
      const value = valueOf(metadata, filter.key)
      return value === undefined || !filter.values.includes(value)
    }
    case "gt":
      return numberAt(metadata, filter.key) > filter.value
    case "gte":
      return numberAt(metadata, filter.key) >= filter.value
    case "lt":
      return numberAt(metadata, filter.key) < filter.value
    case "lte":
      return numberAt(metadata, filter.key) <= filter.value
    case "exists":
      return Object.hasOwn(metadata, filter.key)
  }
}
