/** Schemas of numbers and times as DynamoDB keeps them, and what kind of key a schema makes. */
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as AST from "effect/SchemaAST"
import * as Attribute from "./attribute.ts"

const ExactFromSelf = Schema.declare((one: unknown): one is Attribute.Exact => one instanceof Attribute.Exact, {
  identifier: "Exact"
})

export const Integer: Schema.Schema<bigint, number | bigint> = Schema.transform(
  // larger than those that are safe, too
  Schema.Union(Schema.Number.pipe(Schema.filter(Number.isInteger)), Schema.BigIntFromSelf),
  Schema.BigIntFromSelf,
  {
    strict: true,
    decode: (value) => (typeof value === "bigint" ? value : Attribute.wholeOf(value)),
    encode: (value) => value
  }
)

export const Decimal: Schema.Schema<string, number | bigint | Attribute.Exact> = Schema.transform(
  Schema.Union(Schema.Number, Schema.BigIntFromSelf, ExactFromSelf),
  Schema.String.pipe(Schema.pattern(/^-?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$/)),
  {
    strict: true,
    decode: (value) => (value instanceof Attribute.Exact ? value.text : String(value)),
    encode: (text) => new Attribute.Exact(text)
  }
)

export const EpochSeconds: Schema.Schema<Date, number> = Schema.transform(Schema.Number, Schema.ValidDateFromSelf, {
  strict: true,
  decode: (seconds) => new Date(seconds * 1_000),
  encode: (date) => Math.floor(date.getTime() / 1_000)
})

/** What kind of key an attribute is, by what its schema stores. */
export const keyType = (ast: AST.AST): "S" | "N" | "B" | undefined => {
  switch (ast._tag) {
    case "StringKeyword":
    case "TemplateLiteral":
      return "S"
    case "NumberKeyword":
    case "BigIntKeyword":
      return "N"
    case "Literal":
      return typeof ast.literal === "string" ? "S" : typeof ast.literal === "number" ? "N" : undefined
    case "Enums":
      return typeof ast.enums[0]?.[1] === "number" ? "N" : "S"
    case "Refinement":
    case "Transformation":
      return keyType(ast.from)
    case "Union": {
      const kinds = ast.types.map(keyType).filter((one) => one !== undefined)
      return kinds[0]
    }
    case "Declaration": {
      const identifier = Option.getOrUndefined(AST.getIdentifierAnnotation(ast))
      return identifier === "Exact" ? "N" : /Uint8Array/.test(identifier ?? "") ? "B" : undefined
    }
    default:
      return undefined
  }
}
