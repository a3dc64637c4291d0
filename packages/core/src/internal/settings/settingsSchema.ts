/**
 * Reads a section of the sources by a `Schema`: shapes the raw data by what the schema expects (numbers out of texts,
 * lists out of `a,b`, names in any spelling, variables), decodes it, and turns what does not fit into problems with places.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as ParseResult from "effect/ParseResult"
import * as Schema from "effect/Schema"
import * as AST from "effect/SchemaAST"
import type { Problem } from "../../config/SettingsError.ts"
import type { Node } from "../../config/YamlConfig.ts"
import { emptyIsNone, type Journal, splitText } from "./settingsConfig.ts"
import { invalid, missing, pathText, withoutValues } from "./settingsDescribe.ts"
import type { Found, Sources } from "./settingsTree.ts"

/** What the schema is to decode; `undefined` where nothing was found. */
interface Shaped {
  readonly value: unknown
}

const none: Shaped = { value: undefined }

const number = /^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$/

export const asNumber = (value: string | number | boolean): string | number | boolean =>
  typeof value === "string" && number.test(value.trim()) ? Number(value.trim()) : value

export const asBoolean = (value: string | number | boolean): string | number | boolean => {
  switch (typeof value === "string" ? value.trim().toLowerCase() : value) {
    case "true":
    case "yes":
    case "on":
    case "1":
    case 1:
      return true
    case "false":
    case "no":
    case "off":
    case "0":
    case 0:
      return false
    default:
      return value
  }
}

const dataOf = (node: Node): unknown => {
  switch (node._tag) {
    case "Scalar":
      return node.value
    case "Absent":
      return node.cleared ? null : undefined
    case "List":
      return node.items.map(dataOf)
    case "Table":
      return Object.fromEntries(
        Array.from(node.entries, ([name, child]): [string, unknown] => [name, dataOf(child)]).filter(
          ([, value]) => value !== undefined
        )
      )
  }
}

const foundData = (found: Found): unknown =>
  found._tag === "Nothing" || found._tag === "Numbered" ? undefined : dataOf(found)

export const isRedactedAst = (ast: AST.AST): boolean =>
  AST.isTransformation(ast)
    ? isRedactedAst(ast.to)
    : AST.isRefinement(ast)
      ? isRedactedAst(ast.from)
      : AST.isDeclaration(ast) &&
        Option.exists(AST.getDescriptionAnnotation(ast), (description) => description.startsWith("Redacted("))

const isStruct = (ast: AST.AST): boolean => {
  switch (ast._tag) {
    case "TypeLiteral":
      return ast.propertySignatures.length > 0
    case "Transformation":
    case "Refinement":
      return isStruct(ast.from)
    case "Suspend":
      return isStruct(ast.f())
    default:
      return false
  }
}

export const membersOf = (ast: AST.Union): ReadonlyArray<AST.AST> =>
  ast.types.flatMap((type) => (type._tag === "Union" ? membersOf(type) : [type]))

const acceptsNull = (ast: AST.AST): boolean => {
  switch (ast._tag) {
    case "Literal":
      return ast.literal === null
    case "Union":
      return ast.types.some(acceptsNull)
    case "Transformation":
    case "Refinement":
      return acceptsNull(ast.from)
    case "UnknownKeyword":
    case "AnyKeyword":
      return true
    default:
      return false
  }
}

const fits = (ast: AST.AST, value: unknown): boolean => Schema.is(Schema.make(AST.encodedAST(ast)))(value)

/** A schema's words for what it expects: its description if it has one, else its name. */
export const expectation = (ast: AST.AST): string =>
  Option.getOrElse(
    Option.orElse(
      Option.filter(AST.getDescriptionAnnotation(ast), (description) => !/^Redacted\(/.test(description)),
      () => AST.getTitleAnnotation(ast)
    ),
    () => {
      switch (ast._tag) {
        case "StringKeyword":
          return "text"
        case "NumberKeyword":
          return "a number"
        case "BooleanKeyword":
          return "a boolean"
        case "TypeLiteral":
          return Option.getOrElse(AST.getIdentifierAnnotation(ast), () => "a table")
        case "TupleType":
          return "a list"
        case "Transformation":
        case "Refinement":
          return Option.getOrElse(AST.getIdentifierAnnotation(ast), () => expectation(ast.from))
        case "Union":
          return membersOf(ast)
            .filter((member) => member._tag !== "UndefinedKeyword")
            .map(expectation)
            .join(" or ")
        default:
          return String(ast)
      }
    }
  )

interface Read {
  readonly found: Map<string, Found>
  readonly values: Array<string>
  readonly secrets: Set<string>
  readonly problems: Array<Problem>
}

const keyOf = (path: ReadonlyArray<string>): string => path.join("\u0000")

export const readSection = <A, I>(
  sources: Sources,
  journal: Journal,
  root: ReadonlyArray<string>,
  schema: Schema.Schema<A, I>
): Effect.Effect<A, ReadonlyArray<Problem>> =>
  Effect.gen(function* () {
    const read: Read = { found: new Map(), values: [], secrets: new Set(), problems: [] }

    const lookup = (path: ReadonlyArray<string>, here: Found | undefined): Effect.Effect<Found> =>
      here !== undefined
        ? Effect.succeed(here)
        : Effect.catchAll(sources.at(path), (problem) => {
            read.problems.push({ ...problem, path: pathText(path) })
            return Effect.succeed<Found>({ _tag: "Nothing" })
          })

    const scalar = (
      path: ReadonlyArray<string>,
      here: Found | undefined,
      secret: boolean,
      shape: (found: Extract<Found, { _tag: "Scalar" }>) => unknown
    ): Effect.Effect<Shaped> =>
      Effect.map(lookup(path, here), (found) => {
        read.found.set(keyOf(path), found)
        journal.asked(path)
        if (secret) {
          journal.secret(path)
        }
        if (emptyIsNone(path, secret)) {
          read.secrets.add(keyOf(path))
        }
        if (found._tag !== "Scalar") {
          const data = foundData(found)
          return data === null || data === undefined ? none : { value: data }
        }
        if (found.text === "" && emptyIsNone(path, secret)) {
          return none
        }
        read.values.push(found.text)
        return { value: shape(found) }
      })

    const list = (
      ast: AST.TupleType,
      path: ReadonlyArray<string>,
      here: Found | undefined,
      secret: boolean
    ): Effect.Effect<Shaped> =>
      Effect.gen(function* () {
        const found = yield* lookup(path, here)
        read.found.set(keyOf(path), found)
        journal.asked(path)
        const places: ReadonlyArray<Found | undefined> | undefined =
          found._tag === "List"
            ? found.items.map((item) => (item._tag === "Table" || item._tag === "List" ? undefined : item))
            : found._tag === "Numbered"
              ? Array.from({ length: found.count }, () => undefined)
              : found._tag === "Scalar"
                ? splitText(found)
                : undefined
        if (places === undefined) {
          const data = foundData(found)
          return data === null || data === undefined ? none : { value: data }
        }
        const rest = ast.rest[0]?.type
        const items = yield* Effect.forEach(places, (item, index) => {
          const type = ast.elements[index]?.type ?? rest
          const inner = [...path, `[${index}]`]
          return type === undefined
            ? Effect.map(lookup(inner, item), (one): Shaped => ({ value: foundData(one) }))
            : shape(type, inner, item, secret, true)
        })
        return { value: items.map((item) => item.value) }
      })

    const table = (
      ast: AST.TypeLiteral,
      path: ReadonlyArray<string>,
      here: Found | undefined,
      secret: boolean,
      required: boolean
    ): Effect.Effect<Shaped> =>
      Effect.gen(function* () {
        const found = yield* lookup(path, here)
        read.found.set(keyOf(path), found)
        if (ast.propertySignatures.length === 0 && ast.indexSignatures.length === 0) {
          const data = foundData(found)
          return data === null || data === undefined ? none : { value: data }
        }
        // A variable that happens to have the name of the section is not the section.
        if (found._tag === "List" || (found._tag === "Scalar" && found.origin.type !== "environment")) {
          return { value: foundData(found) }
        }
        // A name without a value (`llm:`, all below it commented out) is an empty table: variables still fill it.
        if (
          found._tag === "Absent" &&
          found.cleared &&
          (found.origin.type === "override" ||
            !((required && isStruct(ast)) || (yield* Effect.orElseSucceed(sources.exists(path), () => true))))
        ) {
          return none
        }
        const entries = new Map<string, unknown>()
        const known = new Set<string>()
        for (const property of ast.propertySignatures) {
          const name = String(property.name)
          known.add(name)
          const type = property.isOptional ? withoutUndefined(property.type) : property.type
          const value = yield* shape(type, [...path, name], undefined, secret, !property.isOptional)
          if (value.value !== undefined) {
            entries.set(name, value.value)
          }
        }
        for (const index of ast.indexSignatures) {
          for (const name of sources.names(path)) {
            if (!known.has(name) && !entries.has(name) && fits(index.parameter, name)) {
              const value = yield* shape(index.type, [...path, name], undefined, secret, true)
              if (value.value !== undefined) {
                entries.set(name, value.value)
              }
            }
          }
        }
        return entries.size === 0 && found._tag !== "Table" && !(required && isStruct(ast))
          ? none
          : { value: Object.fromEntries(entries) }
      })

    const union = (
      ast: AST.Union,
      path: ReadonlyArray<string>,
      here: Found | undefined,
      secret: boolean,
      required: boolean
    ): Effect.Effect<Shaped> =>
      Effect.gen(function* () {
        const found = yield* lookup(path, here)
        const members = membersOf(ast).filter(
          (member) => member._tag !== "UndefinedKeyword" && !(member._tag === "Literal" && member.literal === null)
        )
        const [only, second] = members
        if (only !== undefined && second === undefined) {
          return yield* shape(only, path, here, secret, required)
        }
        // What its form says comes first, so that "5" in quotes stays text where text is allowed.
        if (found._tag === "Scalar" && found.origin.type !== "environment" && fits(ast, found.value)) {
          return yield* scalar(path, here, secret, (one) => one.value)
        }
        let fallback: Shaped = none
        for (const member of members) {
          const value = yield* shape(member, path, here, secret, false)
          if (value.value !== undefined && fits(member, value.value)) {
            return value
          }
          if (value.value !== undefined && (fallback.value === undefined || discriminated(member, value.value))) {
            fallback = value
          }
        }
        return fallback
      })

    const shape = (
      ast: AST.AST,
      path: ReadonlyArray<string>,
      here: Found | undefined,
      secret: boolean,
      required: boolean
    ): Effect.Effect<Shaped> =>
      Effect.suspend((): Effect.Effect<Shaped> => {
        if (acceptsNull(ast)) {
          return Effect.flatMap(lookup(path, here), (found) => {
            if (found._tag === "Absent" && found.cleared) {
              read.found.set(keyOf(path), found)
              journal.asked(path)
              return Effect.succeed<Shaped>({ value: null })
            }
            return inner(ast, path, here, secret, required)
          })
        }
        return inner(ast, path, here, secret, required)
      })

    const inner = (
      ast: AST.AST,
      path: ReadonlyArray<string>,
      here: Found | undefined,
      secret: boolean,
      required: boolean
    ): Effect.Effect<Shaped> => {
      switch (ast._tag) {
        case "Transformation":
          return shape(ast.from, path, here, secret || isRedactedAst(ast), required)
        case "Refinement":
          return shape(ast.from, path, here, secret || isRedactedAst(ast), required)
        case "Suspend":
          return shape(ast.f(), path, here, secret, required)
        case "StringKeyword":
        case "TemplateLiteral":
          return scalar(path, here, secret, (found) => found.text)
        case "NumberKeyword":
          return scalar(path, here, secret, (found) => asNumber(found.value))
        case "BooleanKeyword":
          return scalar(path, here, secret, (found) => asBoolean(found.value))
        case "Literal": {
          const { literal } = ast
          return scalar(path, here, secret, (found) =>
            typeof literal === "string"
              ? found.text
              : typeof literal === "number"
                ? asNumber(found.value)
                : typeof literal === "boolean"
                  ? asBoolean(found.value)
                  : found.value
          )
        }
        case "Enums":
          return scalar(path, here, secret, (found) => {
            const match = ast.enums.find(([, value]) => value === found.value || String(value) === found.text)
            return match === undefined ? found.value : match[1]
          })
        case "TupleType":
          return list(ast, path, here, secret)
        case "TypeLiteral":
          return table(ast, path, here, secret, required)
        case "Union":
          return union(ast, path, here, secret, required)
        default:
          return Effect.map(lookup(path, here), (found) => {
            read.found.set(keyOf(path), found)
            journal.asked(path)
            const data = foundData(found)
            return data === undefined ? none : { value: data }
          })
      }
    }

    const shaped = yield* shape(schema.ast, root, undefined, false, true)
    if (read.problems.length > 0) {
      const wrong = new Set(read.problems.map((problem) => problem.path))
      const more = yield* decode(schema, shaped.value, root, read).pipe(
        Effect.match({ onFailure: (problems) => problems, onSuccess: () => [] })
      )
      return yield* Effect.fail([...read.problems, ...more.filter((problem) => !wrong.has(problem.path))])
    }
    return yield* decode(schema, shaped.value, root, read)
  })

const withoutUndefined = (ast: AST.AST): AST.AST =>
  ast._tag === "Union" ? AST.Union.make(ast.types.filter((type) => type._tag !== "UndefinedKeyword")) : ast

// Whether the literals of a table (`type: "redis"`) single this member out.
export const discriminated = (ast: AST.AST, value: unknown): boolean => {
  switch (ast._tag) {
    case "Transformation":
    case "Refinement":
      return discriminated(ast.from, value)
    case "TypeLiteral": {
      const literals = ast.propertySignatures.filter((property) => property.type._tag === "Literal")
      return (
        literals.length > 0 &&
        typeof value === "object" &&
        value !== null &&
        literals.every(
          (property) => property.type._tag === "Literal" && Reflect.get(value, property.name) === property.type.literal
        )
      )
    }
    default:
      return false
  }
}

const decode = <A, I>(
  schema: Schema.Schema<A, I>,
  value: unknown,
  root: ReadonlyArray<string>,
  read: Read
): Effect.Effect<A, ReadonlyArray<Problem>> =>
  Effect.mapError(ParseResult.decodeUnknown(schema, { errors: "all" })(value), (issue) => {
    const unique = new Map<string, Problem>()
    for (const problem of problemsOf(issue, root, read, undefined)) {
      unique.set(`${problem.path}\u0000${problem.expected ?? ""}\u0000${problem.detail ?? ""}`, problem)
    }
    return Array.from(unique.values())
  })

const segmentsOf = (path: ParseResult.Path): ReadonlyArray<string> =>
  (Array.isArray(path) ? path : [path]).map((key) => (typeof key === "number" ? `[${key}]` : String(key)))

const nearest = (path: ReadonlyArray<string>, read: Read): Found | undefined => read.found.get(keyOf(path))

const problemsOf = (
  issue: ParseResult.ParseIssue,
  path: ReadonlyArray<string>,
  read: Read,
  expected: string | undefined
): ReadonlyArray<Problem> => {
  switch (issue._tag) {
    case "Pointer":
      return problemsOf(issue.issue, [...path, ...segmentsOf(issue.path)], read, undefined)
    case "Composite": {
      const issues = Array.isArray(issue.issues) ? issue.issues : [issue.issues]
      if (issue.ast._tag !== "Union") {
        return issues.flatMap((one) => problemsOf(one, path, read, undefined))
      }
      const words = expected ?? expectation(issue.ast)
      const inside = issues.map((one) => problemsOf(one, path, read, words))
      const here = pathText(path)
      const deeper = inside.filter((problems) => problems.some((problem) => problem.path !== here))
      const [first] = [...deeper].sort((a, b) => a.length - b.length)
      return first ?? [leaf(path, read, words, undefined, issue.actual)]
    }
    case "Refinement":
    case "Transformation":
      return problemsOf(issue.issue, path, read, expected ?? expectation(issue.ast))
    case "Missing":
      return [leaf(path, read, expected ?? expectation(issue.ast.type), undefined, undefined)]
    case "Type":
    case "Forbidden":
    case "Unexpected": {
      const words = expected ?? (issue._tag === "Type" ? expectation(issue.ast) : undefined)
      return [leaf(path, read, words, issue.message, issue.actual)]
    }
  }
}

const leaf = (
  path: ReadonlyArray<string>,
  read: Read,
  expected: string | undefined,
  message: string | undefined,
  actual: unknown
): Problem => {
  const found = nearest(path, read)
  const nothing = found === undefined || found._tag === "Nothing" || found._tag === "Absent"
  if (actual === undefined || (nothing && actual === null) || (found?._tag === "Scalar" && actual === undefined)) {
    return missing(path, found, expected)
  }
  const detail =
    message === undefined || read.secrets.has(keyOf(path)) ? undefined : withoutValues(message, read.values)
  return invalid(path, nothing ? undefined : found, expected, detail)
}
