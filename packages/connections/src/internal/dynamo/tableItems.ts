/** The items and keys of one table, as its schema has them and as they are stored. */
import type { ConnectionError } from "@underlay/core/connection/Connection"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import * as ParseResult from "effect/ParseResult"
import * as Schema from "effect/Schema"
import * as AST from "effect/SchemaAST"
import * as Attribute from "./attribute.ts"
import { asRecord } from "./client.ts"
import type { Faults } from "./faults.ts"
import type { Index } from "./tableModel.ts"

/** What a table is, whatever the types of its keys. */
export interface Definition<A, I> {
  readonly name: string
  readonly schema: Schema.Schema<A, I>
  readonly partitionKey: string
  readonly sortKey?: string | undefined
  readonly indexes?: Readonly<Record<string, Index>> | undefined
  readonly timeToLive?: string | undefined
}

export type Items<A extends object, I extends object> = ReturnType<typeof make<A, I>>

export const make = <A extends object, I extends object>(definition: Definition<A, I>, faults: Faults) => {
  const { failure, notReadable, notStorable, right } = faults
  const { partitionKey, schema, sortKey } = definition
  const keyNames: ReadonlyArray<string> = sortKey === undefined ? [partitionKey] : [partitionKey, sortKey]
  const encodeItem = Schema.encode(schema)
  const decodeItem = ParseResult.decodeUnknown(schema)
  const encoders = new Map<string, (value: unknown) => Effect.Effect<unknown, ParseResult.ParseError>>()

  /** One attribute as it is stored. */
  const encodeOne = (attribute: string, value: unknown): Effect.Effect<unknown, ParseResult.ParseError> => {
    let encode = encoders.get(attribute)
    if (encode === undefined) {
      const one = Schema.encodeUnknown(
        Schema.make<unknown, Readonly<Record<string, unknown>>>(AST.pick(schema.ast, [attribute]))
      )
      encode = (value) => Effect.map(one({ [attribute]: value }), (encoded) => encoded[attribute])
      encoders.set(attribute, encode)
    }
    return encode(value)
  }

  const wireItem = (method: string, item: A) =>
    Effect.flatMap(Effect.mapError(encodeItem(item), notStorable(method)), (encoded) =>
      right(method, Attribute.marshalMap(encoded))
    )

  const wireKey = (
    method: string,
    key: Readonly<Record<string, unknown>>
  ): Effect.Effect<Attribute.AttributeMap, ConnectionError> =>
    Effect.gen(function* () {
      const out: Record<string, Attribute.AttributeValue> = {}
      for (const attribute of keyNames) {
        const encoded = yield* Effect.mapError(encodeOne(attribute, key[attribute]), notStorable(method))
        out[attribute] = yield* right(method, Attribute.marshal(encoded, attribute))
      }
      return out
    })

  const read = (method: string, item: unknown): Effect.Effect<A, ConnectionError> => {
    const value = Attribute.unmarshalMap(item)
    return Either.isLeft(value)
      ? failure("Unknown", method, `${value.left.path}: ${value.left.why}`)
      : ParseResult.mapError(decodeItem(value.right), notReadable(method))
  }

  const decodeNow = ParseResult.decodeUnknownEither(schema)

  /** The items of a page. Nearly all of them are read at once; what is not is read again as an effect. */
  const readAll = (method: string, items: ReadonlyArray<unknown>): Effect.Effect<ReadonlyArray<A>, ConnectionError> => {
    const found: Array<A> = []
    for (const item of items) {
      const value = Attribute.unmarshalMap(item)
      const decoded = Either.isLeft(value) ? undefined : decodeNow(value.right)
      if (decoded === undefined || Either.isLeft(decoded)) return Effect.forEach(items, (one) => read(method, one))
      found.push(decoded.right)
    }
    return Effect.succeed(found)
  }

  const readOption = (method: string, item: unknown): Effect.Effect<Option.Option<A>, ConnectionError> =>
    item === undefined ? Effect.succeedNone : Effect.map(read(method, item), Option.some)

  /** The same for the same key: the service writes numbers in its own way, `1.1` for `1.10`. */
  const nameOf = (key: unknown): string => {
    const record = asRecord(key)
    return JSON.stringify(
      keyNames.map((attribute) => {
        const value = record?.[attribute]
        const number = asRecord(value)?.["N"]
        return typeof number === "string" ? { N: Attribute.canonical(number) } : value
      })
    )
  }

  return { keyNames, encodeOne, wireItem, wireKey, read, readAll, readOption, nameOf }
}
