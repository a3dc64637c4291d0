/**
 * Which schemas change nothing between JSON and their values, so that what they wrote once need not be checked again,
 * and what tells two such schemas apart.
 */
import * as Hash from "effect/Hash"
import * as Option from "effect/Option"
import * as AST from "effect/SchemaAST"

/**
 * Whether decoding only checks: no transformations, classes, declarations nor what JSON has no form of. The fingerprint
 * tells one structure from another; there is none where filters of one's own are in it, of which nothing can be told.
 */
export const inspect = (
  ast: AST.AST
): { readonly plain: false } | { readonly plain: true; readonly fingerprint: string | undefined } => {
  const text = describe(ast, [])
  if (text === undefined) return { plain: false }
  const fingerprint = text.includes(unknown)
    ? undefined
    : `${text.length.toString(36)}.${(Hash.string(text) >>> 0).toString(36)}`
  return { plain: true, fingerprint }
}

/** Stands for a filter of which nothing is known. No JSON text has it. */
const unknown = "\u0000"

const describe = (ast: AST.AST, above: ReadonlyArray<AST.AST>): string | undefined => {
  const seen = above.indexOf(ast)
  if (seen >= 0) return `^${seen}`
  const inside = [...above, ast]
  switch (ast._tag) {
    case "StringKeyword":
    case "NumberKeyword":
    case "BooleanKeyword":
    case "UnknownKeyword":
    case "AnyKeyword":
    case "ObjectKeyword":
    case "NeverKeyword":
      return ast._tag.slice(0, 3)
    case "Literal":
      return typeof ast.literal === "bigint" ? undefined : JSON.stringify(ast.literal)
    case "Enums":
      return JSON.stringify(ast.enums)
    case "TemplateLiteral": {
      const spans = all(ast.spans, (span) => describe(span.type, inside)?.concat(JSON.stringify(span.literal)))
      return spans === undefined ? undefined : `\`${JSON.stringify(ast.head)}${spans}`
    }
    case "Union": {
      const types = all(ast.types, (type) => describe(type, inside))
      return types === undefined ? undefined : `(${types})`
    }
    case "TupleType": {
      const elements = all(ast.elements, (one) => describe(one.type, inside)?.concat(one.isOptional ? "?" : ""))
      const rest = all(ast.rest, (one) => describe(one.type, inside))
      return elements === undefined || rest === undefined ? undefined : `[${elements}|${rest}]`
    }
    case "TypeLiteral": {
      const properties = all(ast.propertySignatures, ({ isOptional, name, type }) => {
        const described = typeof name === "symbol" ? undefined : describe(isOptional ? defined(type) : type, inside)
        return described === undefined ? undefined : `${JSON.stringify(name)}${isOptional ? "?" : ""}:${described}`
      })
      const index = all(ast.indexSignatures, (one) => {
        const key = describe(one.parameter, inside)
        const value = describe(one.type, inside)
        return key === undefined || value === undefined ? undefined : `${key}:${value}`
      })
      return properties === undefined || index === undefined ? undefined : `{${properties}|${index}}`
    }
    case "Refinement": {
      const from = describe(ast.from, inside)
      if (from === undefined) return undefined
      if (Option.isNone(AST.getSchemaIdAnnotation(ast))) return `${from}&${unknown}`
      // built-in filters are told apart by their parameters
      const parameters = Option.getOrUndefined(AST.getJSONSchemaAnnotation(ast))
      const title = Option.getOrUndefined(AST.getTitleAnnotation(ast))
      return `${from}&${JSON.stringify([parameters, title])}`
    }
    case "Suspend":
      return describe(ast.f(), inside)
    default:
      return undefined
  }
}

/** What may be left out may be undefined too: JSON leaves it out. */
const defined = (ast: AST.AST): AST.AST =>
  ast._tag === "Union" ? AST.Union.make(ast.types.filter((type) => type._tag !== "UndefinedKeyword")) : ast

const all = <A>(parts: ReadonlyArray<A>, f: (part: A) => string | undefined): string | undefined => {
  const texts: Array<string> = []
  for (const part of parts) {
    const text = f(part)
    if (text === undefined) return undefined
    texts.push(text)
  }
  return texts.join(",")
}
