/**
 * The merged tree of settings and how a path is found in it: below the environment what the defaults and files say, above
 * it the explicit overrides.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import type { Origin, Problem } from "../../config/SettingsError.ts"
import type { Absent, List, Node, Scalar, Table } from "../../config/YamlConfig.ts"
import { canonical, type Environment, indexOf } from "./settingsEnvironment.ts"

/** Plain data, as a program gives defaults and overrides. A name with dots (`"redis.port"`) is a path. */
export const fromData = (data: unknown, origin: Origin): Node => {
  if (data === null || data === undefined) {
    return { _tag: "Absent", cleared: data === null, why: "it is null", origin }
  }
  switch (typeof data) {
    case "string":
      return { _tag: "Scalar", value: data, text: data, origin }
    case "number":
    case "boolean":
      return { _tag: "Scalar", value: data, text: String(data), origin }
    case "bigint":
      return { _tag: "Scalar", value: String(data), text: String(data), origin }
  }
  if (Redacted.isRedacted(data)) {
    return fromData(Redacted.value(data), origin)
  }
  if (Array.isArray(data)) {
    return { _tag: "List", items: data.map((item) => fromData(item, origin)), origin }
  }
  if (data instanceof URL) {
    return fromData(data.href, origin)
  }
  if (data instanceof Date) {
    return fromData(data.toISOString(), origin)
  }
  if (Duration.isDuration(data)) {
    return fromData(`${Duration.toMillis(data)} millis`, origin)
  }
  let table: Node = { _tag: "Table", entries: new Map(), origin }
  for (const [name, value] of Object.entries(data)) {
    if (value !== undefined) {
      const path = name.split(".")
      const node = path.reduceRight<Node>(
        (inner, segment) => ({ _tag: "Table", entries: new Map([[segment, inner]]), origin }),
        fromData(value, origin)
      )
      table = merge(table, node)
    }
  }
  return table
}

// The name under which a table already holds what a higher source calls `name`: the same spelling, or another spelling of
// it that the higher source does not use itself.
const nameIn = (entries: ReadonlyMap<string, Node>, name: string, higher: ReadonlyMap<string, Node>): string => {
  if (entries.has(name)) {
    return name
  }
  const wanted = canonical(name)
  for (const candidate of entries.keys()) {
    if (canonical(candidate) === wanted && wanted !== "" && !higher.has(candidate)) {
      return candidate
    }
  }
  return name
}

/** The higher source over the lower: tables are merged by name, everything else is replaced whole. */
export const merge = (lower: Node, higher: Node): Node => {
  if (higher._tag === "Absent" && !higher.cleared && lower._tag !== "Absent") {
    return lower
  }
  if (lower._tag !== "Table" || higher._tag !== "Table") {
    return higher
  }
  const entries = new Map(lower.entries)
  for (const [name, node] of higher.entries) {
    const key = nameIn(lower.entries, name, higher.entries)
    const below = entries.get(key)
    entries.set(key, below === undefined ? node : merge(below, node))
  }
  return { _tag: "Table", entries, origin: higher.origin }
}

const childOf = (node: Node, segment: string): Node | undefined => {
  const index = indexOf(segment)
  if (index !== undefined) {
    return node._tag === "List" ? node.items[index] : undefined
  }
  if (node._tag !== "Table") {
    return undefined
  }
  const exact = node.entries.get(segment)
  if (exact !== undefined) {
    return exact
  }
  const wanted = canonical(segment)
  if (wanted === "") {
    return undefined
  }
  for (const [name, child] of node.entries) {
    if (canonical(name) === wanted) {
      return child
    }
  }
  return undefined
}

/** What stands at a path of a tree. A segment in the form of a variable or of a path (`REDIS_HOST`, `redis.host`) is taken apart. */
export const find = (node: Node, path: ReadonlyArray<string>): Node | undefined => {
  const [segment, ...rest] = path
  if (segment === undefined) {
    return node
  }
  const child = childOf(node, segment)
  if (child !== undefined) {
    const found = find(child, rest)
    if (found !== undefined) {
      return found
    }
  }
  const pieces = indexOf(segment) === undefined ? segment.split(/[._]+/).filter((piece) => piece !== "") : []
  for (let length = pieces.length - 1; length >= 1; length--) {
    const inner = childOf(node, pieces.slice(0, length).join("_"))
    const found = inner === undefined ? undefined : find(inner, [pieces.slice(length).join("_"), ...rest])
    if (found !== undefined) {
      return found
    }
  }
  return undefined
}

/** What a path comes to over all sources. */
export type Found =
  | Scalar
  | List
  | Table
  | Absent
  | { readonly _tag: "Numbered"; readonly count: number }
  | { readonly _tag: "Nothing" }

/** All sources as one. */
export interface Sources {
  /**
   * The value of a path; a variable that sets the path itself is a scalar, and variables that give the items of a list one
   * by one (`HOSTS_0`, `HOSTS_1`) are counted.
   */
  readonly at: (path: ReadonlyArray<string>) => Effect.Effect<Found, Problem>
  /** The names in the table at a path, those that only variables give included. */
  readonly names: (path: ReadonlyArray<string>) => ReadonlyArray<string>
  /** Whether any source says anything at the path or below. */
  readonly exists: (path: ReadonlyArray<string>) => Effect.Effect<boolean, Problem>
  readonly base: Node
  readonly overrides: Node
}

const nothing: Found = { _tag: "Nothing" }

export const makeSources = (base: Node, environment: Environment, overrides: Node): Sources => {
  const numbered = (path: ReadonlyArray<string>): number => {
    const given = new Set(
      environment.below(path).flatMap(({ parts }) => (/^\d+$/.test(parts[0] ?? "") ? [Number(parts[0])] : []))
    )
    let count = 0
    while (given.has(count)) {
      count++
    }
    return count
  }

  // Whether an item of a list (the last index in the path) comes from variables, from the overrides or from the files
  // depends on where the list as a whole comes from.
  const listAbove = (
    path: ReadonlyArray<string>
  ): Effect.Effect<"any" | "base" | "overrides" | "environment", Problem> => {
    const last = path.findLastIndex((segment) => indexOf(segment) !== undefined)
    if (last < 0) {
      return Effect.succeed("any")
    }
    const list = path.slice(0, last)
    if (find(overrides, list)?._tag === "List") {
      return Effect.succeed("overrides")
    }
    return Effect.map(environment.at(list), (set) =>
      Option.isSome(set) || numbered(list) > 0 ? "environment" : "base"
    )
  }

  const fromTree = (tree: Node, path: ReadonlyArray<string>): Found => find(tree, path) ?? nothing

  const at = (path: ReadonlyArray<string>): Effect.Effect<Found, Problem> =>
    Effect.gen(function* () {
      const where = yield* listAbove(path)
      const above = where === "any" || where === "overrides" ? fromTree(overrides, path) : nothing
      const usable = above._tag !== "Nothing" && !(above._tag === "Absent" && !above.cleared)
      if (usable && above._tag !== "Table") {
        return above
      }
      const below = where === "any" || where === "base" ? fromTree(base, path) : nothing
      if (below._tag === "Table" || above._tag === "Table") {
        return below._tag === "Table" && above._tag === "Table"
          ? merge(below, above)
          : above._tag === "Table"
            ? above
            : below
      }
      if (where === "any" || where === "environment") {
        const set = yield* environment
          .at(path)
          .pipe(Effect.mapError((problem) => ({ ...problem, path: path.join(".") })))
        if (Option.isSome(set)) {
          const { origin, value } = set.value
          return { _tag: "Scalar", value, text: value, origin }
        }
        const count = numbered(path)
        if (count > 0) {
          return { _tag: "Numbered", count }
        }
      }
      return below
    })

  const names = (path: ReadonlyArray<string>): ReadonlyArray<string> => {
    const below = find(base, path)
    const above = find(overrides, path)
    const tree =
      below?._tag === "Table" && above?._tag === "Table" ? merge(below, above) : above?._tag === "Table" ? above : below
    const all = tree?._tag === "Table" ? Array.from(tree.entries.keys()) : []
    if (path.length > 0) {
      for (const { parts } of environment.below(path)) {
        const covered = all.some((name) => {
          const wanted = canonical(name)
          for (let length = 1; length <= parts.length; length++) {
            if (parts.slice(0, length).join("") === wanted) {
              return true
            }
          }
          return false
        })
        const first = parts[0]
        if (!covered && first !== undefined) {
          all.push(first)
        }
      }
    }
    return all
  }

  const exists = (path: ReadonlyArray<string>): Effect.Effect<boolean, Problem> =>
    Effect.map(at(path), (found) =>
      found._tag === "Nothing" || found._tag === "Absent" ? environment.below(path).length > 0 : true
    )

  return { at, names, exists, base, overrides }
}
