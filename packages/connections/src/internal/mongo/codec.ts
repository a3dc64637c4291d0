/** Documents as a schema has them: compiled once for each collection. */

import * as Either from "effect/Either"
import * as ParseResult from "effect/ParseResult"
import * as Schema from "effect/Schema"
import * as SchemaAST from "effect/SchemaAST"
import type * as Mongo from "mongodb"
import { type Batch, taker } from "./core.ts"
import { DocumentInvalid } from "./model.ts"

/** Where a value is not as the schema wants it, and what the schema wants there. Never the value. */
export const placeOf = (issue: ParseResult.ParseIssue): { readonly path: string; readonly expected: string } => {
  const path: Array<PropertyKey> = []
  let at: ParseResult.ParseIssue = issue
  for (;;) {
    switch (at._tag) {
      case "Pointer": {
        const parts: PropertyKey | ReadonlyArray<PropertyKey> = at.path
        path.push(...(isParts(parts) ? parts : [parts]))
        at = at.issue
        break
      }
      case "Composite": {
        const { issues } = at
        const first: ParseResult.ParseIssue | undefined = isIssues(issues) ? issues[0] : issues
        if (first === undefined) return { path: path.map(String).join("."), expected: String(at.ast) }
        at = first
        break
      }
      case "Refinement":
      case "Transformation":
        if (at.issue._tag === "Type" && at.issue.message !== undefined && at.kind !== "From") {
          return { path: path.map(String).join("."), expected: String(at.ast) }
        }
        at = at.issue
        break
      case "Missing":
        return { path: path.map(String).join("."), expected: "a value, and there is none" }
      case "Unexpected":
        return { path: path.map(String).join("."), expected: "no such field" }
      case "Forbidden":
        return { path: path.map(String).join("."), expected: "a schema that decodes at once" }
      case "Type":
        return { path: path.map(String).join("."), expected: String(at.ast) }
    }
  }
}

const isParts = (path: PropertyKey | ReadonlyArray<PropertyKey>): path is ReadonlyArray<PropertyKey> =>
  Array.isArray(path)
const isIssues = (
  issues: ParseResult.ParseIssue | ReadonlyArray<ParseResult.ParseIssue>
): issues is ReadonlyArray<ParseResult.ParseIssue> => Array.isArray(issues)

export interface Codec<A> {
  /** Decodes what a batch of a cursor holds: see `taker`. */
  readonly take: (onSkipped: (() => void) | undefined) => (found: ReadonlyArray<Mongo.Document>) => Batch<A>
  readonly decode: (document: Mongo.Document) => Either.Either<A, DocumentInvalid>
  readonly encode: (document: unknown) => Either.Either<Mongo.Document, DocumentInvalid>
  /** For documents that get their `_id` when they are stored. */
  readonly encodeNew: (document: unknown) => Either.Either<Mongo.Document, DocumentInvalid>
  readonly decodeId: (id: unknown) => Either.Either<unknown, DocumentInvalid>
  readonly encodeId: (id: unknown) => Either.Either<unknown, DocumentInvalid>
}

const invalid =
  (collection: string, direction: "decode" | "encode", prefix = "") =>
  (issue: ParseResult.ParseIssue): DocumentInvalid => {
    const place = placeOf(issue)
    return new DocumentInvalid({
      collection,
      direction,
      path: [prefix, place.path].filter((part) => part !== "").join("."),
      expected: place.expected
    })
  }

/** Whether it makes instances of a class of what its fields say. */
const isClass = (ast: SchemaAST.Transformation): boolean =>
  SchemaAST.isDeclaration(ast.to) && ast.to.typeParameters.some((type) => fieldsOf(type) !== undefined)

/** The fields of a struct, also of one with defaults, with a filter, or of a class. */
const fieldsOf = (ast: SchemaAST.AST): SchemaAST.TypeLiteral | undefined => {
  if (SchemaAST.isTypeLiteral(ast)) return ast
  if (SchemaAST.isRefinement(ast)) return fieldsOf(ast.from)
  if (!SchemaAST.isTransformation(ast)) return undefined
  return SchemaAST.isTypeLiteralTransformation(ast.transformation) || isClass(ast) ? fieldsOf(ast.from) : undefined
}

/** The same, with an `_id` that may be missing. */
const withoutId = (ast: SchemaAST.AST): SchemaAST.AST => {
  if (SchemaAST.isTypeLiteral(ast)) {
    return new SchemaAST.TypeLiteral(
      ast.propertySignatures.map((property) =>
        property.name === "_id"
          ? new SchemaAST.PropertySignature(property.name, property.type, true, property.isReadonly)
          : property
      ),
      ast.indexSignatures,
      ast.annotations
    )
  }
  if (SchemaAST.isRefinement(ast)) return new SchemaAST.Refinement(withoutId(ast.from), ast.filter, ast.annotations)
  if (!SchemaAST.isTransformation(ast)) return ast
  if (SchemaAST.isTypeLiteralTransformation(ast.transformation)) {
    return new SchemaAST.Transformation(withoutId(ast.from), withoutId(ast.to), ast.transformation, ast.annotations)
  }
  // Who has no `_id` yet is no instance.
  return isClass(ast) ? withoutId(ast.from) : ast
}

const idOf = (ast: SchemaAST.AST): SchemaAST.AST | undefined =>
  fieldsOf(ast)?.propertySignatures.find((property) => property.name === "_id")?.type

const isDocument = (value: unknown): value is Mongo.Document => typeof value === "object" && value !== null

/** For what is only read. */
export const decoder = <A, I>(collection: string, schema: Schema.Schema<A, I>, prefix?: string) => {
  const decode = ParseResult.decodeUnknownEither(schema)
  const decoding = invalid(collection, "decode", prefix)
  return (value: unknown): Either.Either<A, DocumentInvalid> => Either.mapLeft(decode(value), decoding)
}

export const make = <A, I>(collection: string, schema: Schema.Schema<A, I>): Codec<A> => {
  const decoding = invalid(collection, "decode")
  const encoding = invalid(collection, "encode")
  const decode = ParseResult.decodeUnknownEither(schema)
  const encode = ParseResult.encodeUnknownEither(schema)
  const encodeNew = ParseResult.encodeUnknownEither(Schema.make<unknown, unknown>(withoutId(schema.ast)))
  const decodingId = invalid(collection, "decode", "_id")
  const encodingId = invalid(collection, "encode", "_id")
  const id = idOf(schema.ast)
  const idSchema = id === undefined ? undefined : Schema.make<unknown, unknown>(id)
  const decodeId = idSchema === undefined ? undefined : ParseResult.decodeUnknownEither(idSchema)
  const encodeId = idSchema === undefined ? undefined : ParseResult.encodeUnknownEither(idSchema)
  const asDocument = (value: unknown): Either.Either<Mongo.Document, DocumentInvalid> =>
    isDocument(value)
      ? Either.right(value)
      : Either.left(new DocumentInvalid({ collection, direction: "encode", path: "", expected: "a document" }))
  const decodeOne = (document: Mongo.Document): Either.Either<A, DocumentInvalid> => {
    const decoded = decode(document)
    return Either.isRight(decoded) ? Either.right(decoded.right) : Either.left(decoding(decoded.left))
  }
  return {
    take: (onSkipped) => taker(decodeOne, onSkipped),
    decode: decodeOne,
    encode: (document) => Either.flatMap(Either.mapLeft(encode(document), encoding), asDocument),
    encodeNew: (document) => Either.flatMap(Either.mapLeft(encodeNew(document), encoding), asDocument),
    decodeId: (value) => (decodeId === undefined ? Either.right(value) : Either.mapLeft(decodeId(value), decodingId)),
    encodeId: (value) => (encodeId === undefined ? Either.right(value) : Either.mapLeft(encodeId(value), encodingId))
  }
}

/** For collections without a schema: documents as the driver has them. */
export const plain: Codec<Mongo.Document> = {
  take: () => (found) => ({ documents: found, invalid: undefined }),
  decode: Either.right,
  encode: (document) => (isDocument(document) ? Either.right(document) : Either.right({})),
  // the driver writes an _id into what it is given, where there is none
  encodeNew: (document) =>
    Either.right(isDocument(document) ? (document["_id"] == null ? { ...document } : document) : {}),
  decodeId: Either.right,
  encodeId: Either.right
}
