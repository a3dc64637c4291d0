/** What conditions, updates and queries are written with: `on`, `to` and `onKey`. */
import * as Expression from "./expression.ts"
import type { KeyCondition, OnKey } from "./tableModel.ts"

type AnyPath = string | Expression.Path

const comparing =
  (operator: Expression.Comparison) =>
  (path: AnyPath, value: unknown): Expression.Condition => ({
    _tag: "Compare",
    left: { path: Expression.pathOf(path), size: false },
    operator,
    value
  })

const asking =
  (name: "attribute_exists" | "attribute_not_exists") =>
  (path: AnyPath): Expression.Condition => ({
    _tag: "Function",
    name,
    path: Expression.pathOf(path)
  })

const asking2 =
  (name: "attribute_type" | "begins_with" | "contains") =>
  (path: AnyPath, value: unknown): Expression.Condition => ({
    _tag: "Function",
    name,
    path: Expression.pathOf(path),
    value
  })

export const on = {
  eq: comparing("="),
  ne: comparing("<>"),
  lt: comparing("<"),
  lte: comparing("<="),
  gt: comparing(">"),
  gte: comparing(">="),
  between: (path: AnyPath, low: unknown, high: unknown): Expression.Condition => ({
    _tag: "Between",
    left: { path: Expression.pathOf(path), size: false },
    low,
    high
  }),
  in: (path: AnyPath, values: ReadonlyArray<unknown>): Expression.Condition => ({
    _tag: "In",
    path: Expression.pathOf(path),
    values
  }),
  exists: asking("attribute_exists"),
  notExists: asking("attribute_not_exists"),
  type: asking2("attribute_type"),
  beginsWith: asking2("begins_with"),
  contains: asking2("contains"),
  size: (path: AnyPath, operator: Expression.Comparison, value: number): Expression.Condition => ({
    _tag: "Compare",
    left: { path: Expression.pathOf(path), size: true },
    operator,
    value
  }),
  and: (...all: ReadonlyArray<Expression.Condition>): Expression.Condition => ({ _tag: "And", all }),
  or: (...all: ReadonlyArray<Expression.Condition>): Expression.Condition => ({ _tag: "Or", all }),
  not: (one: Expression.Condition): Expression.Condition => ({ _tag: "Not", one })
}

const valued =
  <const Tag extends "Set" | "SetIfAbsent" | "Add" | "Delete">(_tag: Tag) =>
  (path: AnyPath, value: unknown): Expression.Action => ({ _tag, path: Expression.pathOf(path), value })

const listed =
  (front: boolean) =>
  (path: AnyPath, values: ReadonlyArray<unknown>): Expression.Action => ({
    _tag: "Append",
    path: Expression.pathOf(path),
    values,
    front
  })

export const to = {
  set: valued("Set"),
  setIfAbsent: valued("SetIfAbsent"),
  remove: (path: AnyPath): Expression.Action => ({ _tag: "Remove", path: Expression.pathOf(path) }),
  add: valued("Add"),
  increment: (path: AnyPath, by: unknown, initial?: unknown): Expression.Action => ({
    _tag: "Increment",
    path: Expression.pathOf(path),
    by,
    initial
  }),
  deleteFrom: valued("Delete"),
  append: listed(false),
  prepend: listed(true)
}

const keyComparing =
  (operator: Expression.Comparison) =>
  (value: unknown): KeyCondition =>
  (path, encode) => ({ _tag: "Compare", left: { path, size: false }, operator, value: encode(value) })

export const onKey: OnKey<unknown> = {
  eq: keyComparing("="),
  lt: keyComparing("<"),
  lte: keyComparing("<="),
  gt: keyComparing(">"),
  gte: keyComparing(">="),
  between: (low, high) => (path, encode) => ({
    _tag: "Between",
    left: { path, size: false },
    low: encode(low),
    high: encode(high)
  }),
  beginsWith: (prefix) => (path) => ({ _tag: "Function", name: "begins_with", path, value: prefix })
}
