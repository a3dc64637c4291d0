/**
 * Names in the settings of a connection that its kind knows nothing of: what is mistyped would otherwise be ignored, and a
 * default be taken in its place.
 */
import * as ConfigError from "effect/ConfigError"
import * as AST from "effect/SchemaAST"
import { nearest } from "../settings/nearest.ts"
import { canonical } from "../settings/settingsEnvironment.ts"
import { membersOf } from "../settings/settingsSchema.ts"

/** The settings of a table; `undefined` where it takes any name. */
export type Known = ReadonlyMap<string, AST.AST> | undefined

/** A name as it is in the configuration, and what stands below it. */
export interface Named {
  readonly name: string
  readonly below: ReadonlyArray<Named>
}

/** What may be in what stands where this is expected: a value alone, tables of these names, or anything. */
const insideOf = (ast: AST.AST): "value" | "anything" | ReadonlyMap<string, AST.AST> => {
  switch (ast._tag) {
    case "Transformation":
    case "Refinement":
      return insideOf(ast.from)
    case "StringKeyword":
    case "NumberKeyword":
    case "BooleanKeyword":
    case "BigIntKeyword":
    case "UndefinedKeyword":
    case "TemplateLiteral":
    case "Enums":
    case "Literal":
      return "value"
    case "TypeLiteral":
      return ast.indexSignatures.length > 0
        ? "anything"
        : new Map(ast.propertySignatures.map(({ name, type }) => [String(name), type]))
    case "Union": {
      const tables: Array<readonly [string, AST.AST]> = []
      for (const member of membersOf(ast)) {
        const inside = insideOf(member)
        if (inside === "anything") return "anything"
        if (inside !== "value") tables.push(...inside)
      }
      if (tables.length === 0) return "value"
      // Of a name that several members have, each may be meant.
      const found = new Map<string, AST.AST>()
      for (const [name, type] of tables) {
        const other = found.get(name)
        found.set(name, other === undefined ? type : AST.Union.make([other, type]))
      }
      return found
    }
    default:
      return "anything"
  }
}

/** The settings that a schema knows; `undefined` where it takes any name. */
export const knownOf = (ast: AST.AST): Known => {
  const inside = insideOf(ast)
  return typeof inside === "string" ? undefined : inside
}

/**
 * Whether the end of this way is a setting. A name can be spread over several steps: an environment takes
 * `MAX_CONNECTIONS` apart.
 */
const leads = (way: ReadonlyArray<string>, known: ReadonlyMap<string, AST.AST>): boolean => {
  let word = ""
  for (let taken = 1; taken <= way.length; taken++) {
    word += canonical(way[taken - 1] ?? "")
    for (const [name, ast] of known) {
      if (canonical(name) !== word) continue
      const rest = way.slice(taken)
      if (rest.length === 0) return true
      const inside = insideOf(ast)
      if (inside === "anything" || (inside !== "value" && leads(rest, inside))) return true
    }
  }
  return false
}

/** How many steps of a way that leads nowhere are to be shown, and what could have stood in their place. */
const strays = (
  way: ReadonlyArray<string>,
  known: ReadonlyMap<string, AST.AST>
): { readonly steps: number; readonly names: ReadonlyArray<string> } => {
  let word = ""
  for (let taken = 1; taken <= way.length; taken++) {
    word += canonical(way[taken - 1] ?? "")
    for (const [name, ast] of known) {
      const rest = way.slice(taken)
      const inside = canonical(name) === word && rest.length > 0 ? insideOf(ast) : "value"
      if (typeof inside !== "string") {
        const deeper = strays(rest, inside)
        return { steps: taken + deeper.steps, names: deeper.names }
      }
    }
    if (![...known.keys()].some((name) => canonical(name).startsWith(word))) {
      return { steps: taken, names: [...known.keys()] }
    }
  }
  return { steps: way.length, names: [...known.keys()] }
}

const waysOf = (named: Named): ReadonlyArray<ReadonlyArray<string>> =>
  named.below.length === 0
    ? [[named.name]]
    : named.below.flatMap((below) => waysOf(below).map((way) => [named.name, ...way]))

/** What stands at a place and is no setting there, each once. */
export const unknown = (
  path: ReadonlyArray<string>,
  found: ReadonlyArray<Named>,
  known: ReadonlyMap<string, AST.AST>
): ReadonlyArray<ConfigError.ConfigError> => {
  const errors = new Map<string, ConfigError.ConfigError>()
  for (const way of found.flatMap(waysOf)) {
    if (leads(way, known)) continue
    const { names, steps } = strays(way, known)
    const shown = way.slice(0, steps)
    const key = shown.join("\u0000")
    const last = shown[shown.length - 1] ?? ""
    const meant = nearest(steps > 1 && names.length === known.size ? shown.join("") : last, names)
    errors.set(key, ConfigError.InvalidData([...path, ...shown], `there is no such setting${meant}`))
  }
  return [...errors.values()]
}
