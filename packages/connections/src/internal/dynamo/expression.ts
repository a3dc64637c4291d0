/**
 * Conditions and updates as data, and as the texts that DynamoDB takes: every name and every value goes as a placeholder,
 * so no name is reserved and nothing can be injected.
 */
import * as Either from "effect/Either"
import { type AttributeValue, marshal, Refused } from "./attribute.ts"

/** Where something is in an item: names, and places in lists. */
export type Path = ReadonlyArray<string | number>

export type Comparison = "=" | "<>" | "<" | "<=" | ">" | ">="

/** What is compared: an attribute, or its size. */
export type Operand = { readonly path: Path; readonly size: boolean }

export type Condition =
  | { readonly _tag: "Compare"; readonly left: Operand; readonly operator: Comparison; readonly value: unknown }
  | { readonly _tag: "Between"; readonly left: Operand; readonly low: unknown; readonly high: unknown }
  | { readonly _tag: "In"; readonly path: Path; readonly values: ReadonlyArray<unknown> }
  | {
      readonly _tag: "Function"
      readonly name: "attribute_exists" | "attribute_not_exists" | "attribute_type" | "begins_with" | "contains"
      readonly path: Path
      readonly value?: unknown
    }
  | { readonly _tag: "And" | "Or"; readonly all: ReadonlyArray<Condition> }
  | { readonly _tag: "Not"; readonly one: Condition }

export type Action =
  | { readonly _tag: "Set"; readonly path: Path; readonly value: unknown }
  | { readonly _tag: "SetIfAbsent"; readonly path: Path; readonly value: unknown }
  | { readonly _tag: "Increment"; readonly path: Path; readonly by: unknown; readonly initial: unknown }
  | { readonly _tag: "Append"; readonly path: Path; readonly values: ReadonlyArray<unknown>; readonly front: boolean }
  | { readonly _tag: "Remove"; readonly path: Path }
  | { readonly _tag: "Add"; readonly path: Path; readonly value: unknown }
  | { readonly _tag: "Delete"; readonly path: Path; readonly value: unknown }

/** Collects the names and values of the expressions of one request. */
export class Placeholders {
  private readonly names = new Map<string, string>()
  private readonly values: Record<string, AttributeValue> = {}
  private count = 0

  name(name: string): string {
    const known = this.names.get(name)
    if (known !== undefined) return known
    const made = `#n${this.names.size}`
    this.names.set(name, made)
    return made
  }

  /** Throws `Refused`. */
  value(value: unknown, path: string): string {
    const wire = marshal(value, path)
    if (Either.isLeft(wire)) throw wire.left
    const made = `:v${this.count++}`
    this.values[made] = wire.right
    return made
  }

  path(path: Path): string {
    let text = ""
    for (const part of path) {
      if (typeof part === "number") text += `[${part}]`
      else text += `${text === "" ? "" : "."}${this.name(part)}`
    }
    return text
  }

  /** As a request has them. */
  get fields(): Readonly<Record<string, unknown>> {
    return {
      ...(this.names.size === 0
        ? {}
        : { ExpressionAttributeNames: Object.fromEntries([...this.names].map(([name, key]) => [key, name])) }),
      ...(this.count === 0 ? {} : { ExpressionAttributeValues: this.values })
    }
  }
}

/** `a.b[0].c`, or its parts where names have dots or brackets in them. Throws `Refused`. */
export const pathOf = (path: string | Path): Path => {
  if (typeof path !== "string") {
    if (path.length === 0 || typeof path[0] !== "string") throw new Refused("", "a path begins with a name")
    if (path.some((part) => (typeof part === "number" ? !Number.isInteger(part) || part < 0 : part === ""))) {
      throw new Refused("", "a path is of names, and places from 0")
    }
    return path
  }
  const parts: Array<string | number> = []
  for (const piece of path.split(".")) {
    const [, name = "", places = ""] = /^([^[\]]*)((?:\[\d+\])*)$/.exec(piece) ?? []
    if (name === "") throw new Refused(path, "a path is like a.b[0].c, or a list of its parts")
    parts.push(name)
    for (const [, place] of places.matchAll(/\[(\d+)\]/g)) parts.push(Number(place))
  }
  return parts
}

const shown = (path: Path): string => path.map((part) => (typeof part === "number" ? `[${part}]` : part)).join(".")

/** Values that `in` takes, at the most. */
const mostIn = 100

/** The text of a condition. Throws `Refused`. */
export const condition = (one: Condition, at: Placeholders): string => {
  const operand = ({ path, size }: Operand): string => (size ? `size(${at.path(path)})` : at.path(path))
  switch (one._tag) {
    case "Compare":
      return `${operand(one.left)} ${one.operator} ${at.value(one.value, shown(one.left.path))}`
    case "Between":
      return `${operand(one.left)} BETWEEN ${at.value(one.low, shown(one.left.path))} AND ${at.value(one.high, shown(one.left.path))}`
    case "In": {
      // none of nothing; and the server takes no more than so many at once
      if (one.values.length === 0) return never(one.path, at)
      const groups: Array<string> = []
      for (let from = 0; from < one.values.length; from += mostIn) {
        const some = one.values.slice(from, from + mostIn).map((value) => at.value(value, shown(one.path)))
        groups.push(`${at.path(one.path)} IN (${some.join(", ")})`)
      }
      return groups.length === 1 ? (groups[0] ?? "") : `(${groups.join(" OR ")})`
    }
    case "Function":
      return "value" in one
        ? `${one.name}(${at.path(one.path)}, ${at.value(one.value, shown(one.path))})`
        : `${one.name}(${at.path(one.path)})`
    case "And":
    case "Or": {
      const [first] = one.all
      if (first === undefined) throw new Refused("", "and, or: of one condition at the least")
      return one.all.length === 1
        ? condition(first, at)
        : `(${one.all.map((each) => condition(each, at)).join(one._tag === "And" ? " AND " : " OR ")})`
    }
    case "Not":
      return `(NOT ${condition(one.one, at)})`
  }
}

const never = (path: Path, at: Placeholders): string => {
  const name = at.path(path)
  return `(attribute_exists(${name}) AND attribute_not_exists(${name}))`
}

/** The text of an update. Throws `Refused`. */
export const update = (actions: ReadonlyArray<Action>, at: Placeholders): string => {
  const clauses: Record<"SET" | "REMOVE" | "ADD" | "DELETE", Array<string>> = {
    SET: [],
    REMOVE: [],
    ADD: [],
    DELETE: []
  }
  for (const action of actions) {
    const path = at.path(action.path)
    const value = (of: unknown) => at.value(of, shown(action.path))
    switch (action._tag) {
      case "Set":
        clauses.SET.push(`${path} = ${value(action.value)}`)
        break
      case "SetIfAbsent":
        clauses.SET.push(`${path} = if_not_exists(${path}, ${value(action.value)})`)
        break
      case "Increment":
        clauses.SET.push(
          action.initial === undefined
            ? `${path} = ${path} + ${value(action.by)}`
            : `${path} = if_not_exists(${path}, ${value(action.initial)}) + ${value(action.by)}`
        )
        break
      case "Append": {
        const there = `if_not_exists(${path}, ${value([])})`
        const more = value(action.values)
        clauses.SET.push(`${path} = list_append(${action.front ? `${more}, ${there}` : `${there}, ${more}`})`)
        break
      }
      case "Remove":
        clauses.REMOVE.push(path)
        break
      case "Add":
        clauses.ADD.push(`${path} ${value(action.value)}`)
        break
      case "Delete":
        clauses.DELETE.push(`${path} ${value(action.value)}`)
        break
    }
  }
  const text = Object.entries(clauses)
    .filter(([, all]) => all.length > 0)
    .map(([name, all]) => `${name} ${all.join(", ")}`)
    .join(" ")
  if (text === "") throw new Refused("", "an update has one action at the least")
  return text
}

/**
 * Whether an update done twice leaves what it leaves done once. Counting and appending do not; nor does what speaks of
 * places in lists, which move when one is removed and grow when one is set beyond the end.
 */
export const isIdempotent = (actions: ReadonlyArray<Action>): boolean =>
  actions.every((action) => {
    if (action.path.some((part) => typeof part === "number")) return false
    switch (action._tag) {
      case "Set":
      case "SetIfAbsent":
      case "Remove":
      case "Delete":
        return true
      case "Add":
        // to a set; a number counts
        return action.value instanceof Set
      default:
        return false
    }
  })
