/**
 * Filters in the language of Chroma: one operator for each key, no negation (it goes down to the comparisons), numbers
 * that are never whole. What the server would refuse, or break on, is not written at all.
 */
import type { Filter as Filters } from "@underlay/core/storage/VectorStore"
import * as Numbers from "./chromaNumbers.ts"
import { exactKeyOf, floorKeyOf, keyOf, typeKeyOf, types, valueText } from "./chromaRecord.ts"

type Filter = Filters.Filter
type Value = Filters.Value

interface Leaf {
  readonly text: string
  readonly values: number
}

interface Group {
  readonly word: "$and" | "$or"
  readonly nodes: ReadonlyArray<Leaf | Group>
}

type Node = boolean | Leaf | Group

const group = (word: "$and" | "$or", nodes: ReadonlyArray<Node>): Node => {
  const found: Array<Leaf | Group> = []
  for (const node of nodes) {
    if (typeof node !== "boolean") {
      if ("word" in node && node.word === word) found.push(...node.nodes)
      else found.push(node)
    } else if (node !== (word === "$and")) return node
  }
  const [only] = found
  if (only === undefined) return word === "$and"
  return found.length === 1 ? only : { word, nodes: found }
}

const leaf = (name: string, operator: string, text: string, values = 1): Leaf => ({
  text: `{${JSON.stringify(name)}:{"${operator}":${text}}}`,
  values
})

const among = (name: string, texts: ReadonlyArray<string>, no: boolean): Node => {
  const [only] = texts
  if (only === undefined) return no
  return texts.length === 1
    ? leaf(name, no ? "$ne" : "$eq", only)
    : leaf(name, no ? "$nin" : "$in", `[${texts.join(",")}]`, texts.length)
}

/** One of these values; `no`: none of them, or not there. Texts, numbers and booleans do not go into one list. */
const oneOf = (key: string, values: ReadonlyArray<Value>, no: boolean): Node => {
  const lists: Record<"string" | "number" | "boolean" | "exact", Set<string>> = {
    string: new Set(),
    number: new Set(),
    boolean: new Set(),
    exact: new Set()
  }
  for (const value of values) {
    if (typeof value === "number" && !Numbers.isKept(value)) lists.exact.add(JSON.stringify(String(value)))
    else
      lists[typeof value === "string" ? "string" : typeof value === "number" ? "number" : "boolean"].add(
        valueText(value)
      )
  }
  const { boolean, exact, number, string } = lists
  return group(no ? "$and" : "$or", [
    ...[string, number, boolean].map((texts) => among(keyOf(key), [...texts], no)),
    among(exactKeyOf(key), [...exact], no)
  ])
}

type Comparison = "gt" | "gte" | "lt" | "lte"

/**
 * A range over the numbers that the server keeps, and over those that it does not: of these it has the greatest that it
 * keeps below them, and the numbers themselves as texts. Between two that it keeps there are few.
 */
const range = (key: string, op: Comparison, value: number): Node => {
  const up = op === "gt" || op === "gte"
  const floor = Numbers.floor(value)
  const bound = Numbers.written(floor)
  const kept = floor === value
  return group("$or", [
    leaf(keyOf(key), kept ? `$${op}` : up ? "$gt" : "$lte", bound),
    leaf(floorKeyOf(key), up ? (kept ? "$gte" : "$gt") : "$lt", bound),
    kept
      ? false
      : among(
          exactKeyOf(key),
          [...(op === "gte" || op === "lte" ? [value] : []), ...Numbers.unkept(value, up)].map((each) =>
            JSON.stringify(String(each))
          ),
          false
        )
  ])
}

const opposite = { gt: "lte", gte: "lt", lt: "gte", lte: "gt" } as const

const nodeOf = (filter: Filter, no: boolean): Node => {
  switch (filter.op) {
    case "and":
    case "or":
      return group(
        (filter.op === "and") === no ? "$or" : "$and",
        filter.filters.map((each) => nodeOf(each, no))
      )
    case "not":
      return nodeOf(filter.filter, !no)
    case "eq":
      return oneOf(filter.key, [filter.value], no)
    case "ne":
      return oneOf(filter.key, [filter.value], !no)
    case "in":
      return oneOf(filter.key, filter.values, no)
    case "nin":
      return oneOf(filter.key, filter.values, !no)
    case "exists":
      return among(typeKeyOf(filter.key), [`"${types.string}"`, `"${types.number}"`, `"${types.boolean}"`], no)
    default:
      return no
        ? group("$or", [
            range(filter.key, opposite[filter.op], filter.value),
            leaf(typeKeyOf(filter.key), "$ne", `"${types.number}"`)
          ])
        : range(filter.key, filter.op, filter.value)
  }
}

/** The server makes an expression of SQL of a filter: more than this takes it seconds, or ends it. */
const most = { leaves: 200, values: 8_000, depth: 40 }

/** Everything, where something has to be asked for. */
export const everything = leaf("~none", "$ne", '""').text
const nothing = leaf("~none", "$eq", '""').text

/** A filter of the port as a `where`; `none` for everything; nothing where it has to be applied on this side. */
export const compile = (filter: Filter): { readonly where: string | undefined } | undefined => {
  const root = nodeOf(filter, false)
  if (typeof root === "boolean") return { where: root ? undefined : nothing }
  let leaves = 0
  let values = 0
  let deepest = 0
  const print = (node: Leaf | Group, depth: number): string => {
    deepest = Math.max(deepest, depth)
    if ("text" in node) {
      leaves++
      values += node.values
      return node.text
    }
    return `{"${node.word}":[${node.nodes.map((each) => print(each, depth + 1)).join(",")}]}`
  }
  const where = print(root, 0)
  return leaves > most.leaves || values > most.values || deepest > most.depth ? undefined : { where }
}
