/** Many items at once: what the service does not get to is sent again. */
import * as Crypto from "node:crypto"
import type { ConnectionError } from "@underlay/core/connection/Connection"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { asRecord, listOf, type Output } from "./client.ts"
import type { Definition, Items } from "./tableItems.ts"
import type { Call, Indexes, KeyOf, Names, Table } from "./tableModel.ts"

/** How often what was left of a batch is sent again, and how long it waits, in milliseconds. */
const batches = { rounds: 10, first: 50, longest: 5_000, atOnce: 4 }

/** Sends in pieces, a few at once; what comes back as not done is sent again, until the rounds are over. */
const inBatches = <W>(
  all: ReadonlyArray<W>,
  size: number,
  send: (some: ReadonlyArray<W>) => Effect.Effect<ReadonlyArray<W>, ConnectionError>
): Effect.Effect<ReadonlyArray<W>, ConnectionError> => {
  const pieces: Array<ReadonlyArray<W>> = []
  for (let from = 0; from < all.length; from += size) pieces.push(all.slice(from, from + size))
  const settle = (piece: ReadonlyArray<W>, round: number): Effect.Effect<ReadonlyArray<W>, ConnectionError> =>
    Effect.flatMap(send(piece), (left) => {
      if (left.length === 0 || round === batches.rounds) return Effect.succeed(left)
      // where some were done it is not so bad
      const next = left.length < piece.length ? Math.min(round, 2) : round
      const pause = Math.min(batches.longest, batches.first * 2 ** next)
      return Effect.zipRight(
        Effect.sleep(Duration.millis(pause / 2 + Crypto.randomInt(Math.ceil(pause / 2)))),
        settle(left, left.length < piece.length ? round : round + 1)
      )
    })
  return Effect.map(
    Effect.forEach(pieces, (piece) => settle(piece, 0), { concurrency: batches.atOnce }),
    (left) => left.flat(1)
  )
}

export const make = <A extends object, I extends object, PK extends Names<A, I>, SK extends Names<A, I>>(
  definition: Definition<A, I>,
  items: Items<A, I>,
  call: Call
) => {
  type Own = Table<A, I, PK, SK, Indexes<Names<A, I>>>
  const { name } = definition
  const { nameOf, read, wireItem, wireKey } = items

  const getMany: Own["getMany"] = (keys, options) =>
    Effect.gen(function* () {
      const wires = yield* Effect.forEach(keys, (key) => wireKey("BatchGetItem", key))
      // the service refuses what is there twice
      const distinct = new Map(wires.map((wire) => [nameOf(wire), wire]))
      const found = new Map<string, A>()
      const left = yield* inBatches([...distinct.values()], 100, (some) =>
        Effect.gen(function* () {
          const output = yield* call(
            "BatchGetItem",
            {
              RequestItems: {
                [name]: { Keys: some, ...(options?.consistent === true ? { ConsistentRead: true } : {}) }
              }
            },
            true
          )
          for (const item of listOf(asRecord(output["Responses"])?.[name])) {
            found.set(nameOf(item), yield* read("BatchGetItem", item))
          }
          const rest = new Set(listOf(asRecord(asRecord(output["UnprocessedKeys"])?.[name])?.["Keys"]).map(nameOf))
          return some.filter((wire) => rest.has(nameOf(wire)))
        })
      )
      const missing = new Set(left.map(nameOf))
      return {
        items: wires.map((wire) => Option.fromNullable(found.get(nameOf(wire)))),
        left: keys.filter((_, index) => missing.has(nameOf(wires[index])))
      }
    })

  const writeMany: Own["writeMany"] = (batch) =>
    Effect.gen(function* () {
      type Write =
        | { readonly put: A; readonly wire: Output }
        | { readonly remove: KeyOf<A, PK, SK>; readonly wire: Output }
      const writes = new Map<string, Write>()
      for (const item of batch.put ?? []) {
        const wire = yield* wireItem("BatchWriteItem", item)
        writes.set(nameOf(wire), { put: item, wire: { PutRequest: { Item: wire } } })
      }
      for (const key of batch.delete ?? []) {
        const wire = yield* wireKey("BatchWriteItem", key)
        writes.set(nameOf(wire), { remove: key, wire: { DeleteRequest: { Key: wire } } })
      }
      const left = yield* inBatches([...writes], 25, (some) =>
        Effect.map(
          call("BatchWriteItem", { RequestItems: { [name]: some.map(([, { wire }]) => wire) } }, true),
          (output) => {
            const rest = new Set(
              listOf(asRecord(output["UnprocessedItems"])?.[name]).map((one) => {
                const write = asRecord(one)
                return nameOf(asRecord(write?.["PutRequest"])?.["Item"] ?? asRecord(write?.["DeleteRequest"])?.["Key"])
              })
            )
            return some.filter(([key]) => rest.has(key))
          }
        )
      )
      return {
        put: left.flatMap(([, write]) => ("put" in write ? [write.put] : [])),
        delete: left.flatMap(([, write]) => ("remove" in write ? [write.remove] : []))
      }
    })

  return { getMany, writeMany }
}
