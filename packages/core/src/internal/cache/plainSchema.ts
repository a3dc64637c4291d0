/**
 * Which schemas change nothing between JSON and their values, so that what they wrote once need not be checked again,
 * and what tells two such schemas apart.
 */
import * as Hash from "effect/Hash"
import * as Option from "effect/Option"
import * as AST from "effect/SchemaAST"

/**
 * A fingerprint of the structure, or undefined where decoding does more than to check: transformations, classes,
 * declarations and whatever JSON has no form of.
 */
export const fingerprint = (ast: AST.AST): string | undefined => {
  const text = describe(ast, [])
  return text === undefined ? undefined : `${text.length.toString(36)}.${(Hash.string(text) >>> 0).toString(36)}`
}

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
      const properties = all(ast.propertySignatures, (one) =>
        typeof one.name === "symbol"
          ? undefined
          : describe(one.type, inside)?.replace(/^/, `${JSON.stringify(one.name)}${one.isOptional ? "?" : ""}:`)
      )
      const index = all(ast.indexSignatures, (one) => {
        const key = describe(one.parameter, inside)
        const value = describe(one.type, inside)
        return key === undefined || value === undefined ? undefined : `${key}:${value}`
      })
      return properties === undefined || index === undefined ? undefined : `{${properties}|${index}}`
    }
    case "Refinement": {
      const from = describe(ast.from, inside)
      // built-in filters are told apart by their parameters, one's own by its text
      const parameters = Option.getOrUndefined(AST.getJSONSchemaAnnotation(ast))
      const title = Option.getOrUndefined(AST.getTitleAnnotation(ast))
      return from === undefined ? undefined : `${from}&${JSON.stringify([parameters, title, String(ast.filter)])}`
    }
    case "Suspend":
      return describe(ast.f(), inside)
    default:
      return undefined
  }
}

const all = <A>(parts: ReadonlyArray<A>, f: (part: A) => string | undefined): string | undefined => {
  const texts: Array<string> = []
  for (const part of parts) {
    const text = f(part)
    if (text === undefined) return undefined
    texts.push(text)
  }
  return texts.join(",")
}
