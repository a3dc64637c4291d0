/**
 * A `Schema` as a `Config`: what the schema expects is read from whatever provider there is (which has texts only),
 * shaped, decoded, and everything that is missing or wrong becomes an error with its path. No value is ever in a message.
 */
import * as Arr from "effect/Array"
import * as Config from "effect/Config"
import * as ConfigError from "effect/ConfigError"
import * as Either from "effect/Either"
import * as HashMap from "effect/HashMap"
import * as Option from "effect/Option"
import * as ParseResult from "effect/ParseResult"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import * as AST from "effect/SchemaAST"
import { asBoolean, asNumber, discriminated, expectation, isRedactedAst, membersOf } from "./settingsSchema.ts"

/** What the schema is to decode; `undefined` where nothing was found. */
type Raw = Config.Config<unknown>

const nothing: Raw = Config.succeed(undefined)

const text = (secret: boolean, name?: string): Config.Config<string | undefined> =>
  secret
    ? Config.map(Config.option(name === undefined ? Config.redacted() : Config.redacted(name)), (found) =>
        // An empty password is no password.
        Option.getOrUndefined(Option.filter(Option.map(found, Redacted.value), (value) => value !== ""))
      )
    : Config.map(Config.option(name === undefined ? Config.string() : Config.string(name)), Option.getOrUndefined)

const fits = (ast: AST.AST, value: unknown): boolean => Schema.is(Schema.make(AST.encodedAST(ast)))(value)

/** The text as the value that the schema wants, if it can be one. */
const scalarOf = (ast: AST.AST, found: string): unknown => {
  switch (ast._tag) {
    case "Transformation":
    case "Refinement":
      return scalarOf(ast.from, found)
    case "NumberKeyword":
      return asNumber(found)
    case "BooleanKeyword":
      return asBoolean(found)
    case "Literal":
      return typeof ast.literal === "number"
        ? asNumber(found)
        : typeof ast.literal === "boolean"
          ? asBoolean(found)
          : found
    case "Enums": {
      const match = ast.enums.find(([, value]) => String(value) === found)
      return match === undefined ? found : match[1]
    }
    case "Union":
      for (const member of membersOf(ast)) {
        const value = scalarOf(member, found)
        if (fits(member, value)) return value
      }
      return found
    default:
      return found
  }
}

type Form = "scalar" | "table" | "list" | "none"

const formOf = (ast: AST.AST): Form => {
  switch (ast._tag) {
    case "Transformation":
    case "Refinement":
      return formOf(ast.from)
    case "TypeLiteral":
      return "table"
    case "TupleType":
      return "list"
    case "StringKeyword":
    case "NumberKeyword":
    case "BooleanKeyword":
    case "TemplateLiteral":
    case "Enums":
      return "scalar"
    case "Literal":
      return ast.literal === null ? "none" : "scalar"
    default:
      return "none"
  }
}

const named = (config: Raw, name: string | undefined): Raw =>
  name === undefined ? config : Config.nested(config, name)

const struct = (ast: AST.TypeLiteral, secret: boolean, required: boolean): Raw => {
  const [index] = ast.indexSignatures
  if (index !== undefined) {
    return Config.map(Config.option(Config.hashMap(shape(index.type, undefined, secret, true))), (found) =>
      Option.match(found, {
        onNone: () => undefined,
        onSome: (entries) => (HashMap.isEmpty(entries) && !required ? undefined : Object.fromEntries(entries))
      })
    )
  }
  const fields = ast.propertySignatures.map((property) => {
    const name = String(property.name)
    return [name, shape(property.type, name, secret, !property.isOptional)] as const
  })
  return Config.map(Config.all(Object.fromEntries(fields)), (found): unknown => {
    const present = Object.entries(found).filter(([, value]) => value !== undefined)
    return present.length === 0 && !required ? undefined : Object.fromEntries(present)
  })
}

const union = (ast: AST.Union, name: string | undefined, secret: boolean, required: boolean): Raw => {
  const members = membersOf(ast).filter((member) => formOf(member) !== "none")
  const [only, second] = members
  if (only === undefined) return nothing
  if (second === undefined) return shape(only, name, secret, required)
  if (members.every((member) => formOf(member) === "scalar")) {
    const hidden = secret || members.some(isRedactedAst)
    return Config.map(text(hidden, name), (found) => (found === undefined ? undefined : scalarOf(ast, found)))
  }
  // A text where a table may stand as well: what cannot be read as the one may be the other.
  const each = members.map((member) =>
    Config.orElse(shape(member, name, secret, false), () => Config.succeed<unknown>(undefined))
  )
  return Config.map(Config.all(each), (values): unknown => {
    const candidates = members.flatMap((member, index) =>
      values[index] === undefined ? [] : [{ member, value: values[index] }]
    )
    const best =
      candidates.find(({ member, value }) => fits(member, value)) ??
      candidates.find(({ member, value }) => discriminated(member, value)) ??
      candidates[0]
    return best?.value
  })
}

const shape = (ast: AST.AST, name: string | undefined, secret: boolean, required: boolean): Raw => {
  switch (ast._tag) {
    case "Transformation":
    case "Refinement":
      return shape(ast.from, name, secret || isRedactedAst(ast), required)
    case "Suspend":
      return Config.suspend(() => shape(ast.f(), name, secret, required))
    case "StringKeyword":
    case "NumberKeyword":
    case "BooleanKeyword":
    case "TemplateLiteral":
    case "Enums":
      return Config.map(text(secret, name), (found) => (found === undefined ? undefined : scalarOf(ast, found)))
    case "Literal":
      return ast.literal === null
        ? nothing
        : Config.map(text(secret, name), (found) => (found === undefined ? undefined : scalarOf(ast, found)))
    case "TupleType": {
      const item = ast.rest[0]?.type ?? ast.elements[0]?.type
      if (item === undefined) return nothing
      return Config.map(Config.option(Config.array(shape(item, undefined, secret, true), name)), (found) =>
        Option.getOrUndefined(
          Option.filter(found, (items) => items.length === 0 || items.some((one) => one !== undefined))
        )
      )
    }
    case "TypeLiteral":
      return named(struct(ast, secret, required), name)
    case "Union":
      return union(ast, name, secret, required)
    default:
      return nothing
  }
}

const segmentsOf = (path: ParseResult.Path): ReadonlyArray<string> =>
  (Array.isArray(path) ? path : [path]).map((key) => (typeof key === "number" ? `[${key}]` : String(key)))

const invalid = (path: ReadonlyArray<string>, expected: string): ConfigError.ConfigError =>
  ConfigError.InvalidData([...path], `expected ${expected}`)

/** What a check of the schema's author says, if he said it in words of his own. */
const ownMessage = (ast: AST.AST): string | undefined =>
  Option.getOrUndefined(
    Option.orElse(AST.getDescriptionAnnotation(ast), () =>
      Option.filter(AST.getTitleAnnotation(ast), (title) => title.length > 0)
    )
  )

const errorsOf = (
  issue: ParseResult.ParseIssue,
  path: ReadonlyArray<string>,
  expected: string | undefined
): ReadonlyArray<ConfigError.ConfigError> => {
  switch (issue._tag) {
    case "Pointer":
      return errorsOf(issue.issue, [...path, ...segmentsOf(issue.path)], undefined)
    case "Composite": {
      const issues = Array.isArray(issue.issues) ? issue.issues : [issue.issues]
      if (issue.ast._tag !== "Union") return issues.flatMap((one) => errorsOf(one, path, undefined))
      const words = expected ?? expectation(issue.ast)
      const inside = issues
        .map((one) => errorsOf(one, path, words))
        .filter((errors) => errors.some((error) => !("path" in error) || error.path.length !== path.length))
      const [best] = inside.sort((a, b) => a.length - b.length)
      return best ?? [invalid(path, words)]
    }
    case "Refinement":
    case "Transformation":
      return errorsOf(issue.issue, path, expected ?? ownMessage(issue.ast) ?? expectation(issue.ast))
    case "Missing":
      return [ConfigError.MissingData([...path], `missing, expected ${expected ?? expectation(issue.ast.type)}`)]
    case "Type":
    case "Forbidden":
    case "Unexpected": {
      const words = expected ?? (issue._tag === "Type" ? expectation(issue.ast) : "nothing here")
      return issue.actual === undefined
        ? [ConfigError.MissingData([...path], `missing, expected ${words}`)]
        : [invalid(path, words)]
    }
  }
}

const words = (error: ConfigError.ConfigError): string =>
  "path" in error ? `${error.path.join("\u0000")}\u0000${error.message}` : ""

/** Reads what the schema describes at the place where the config is nested. */
export const configOf = <A, I>(schema: Schema.Schema<A, I>): Config.Config<A> => {
  const decode = ParseResult.decodeUnknownEither(schema, { errors: "all" })
  return Config.mapOrFail(shape(schema.ast, undefined, false, true), (found) =>
    Either.mapLeft(decode(found), (issue) => {
      const errors = Arr.dedupeWith(errorsOf(issue, [], undefined), (a, b) => words(a) === words(b))
      return errors.reduce((left, right) => ConfigError.And(left, right))
    })
  )
}
