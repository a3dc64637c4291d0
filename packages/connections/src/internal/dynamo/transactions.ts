/** Transactions over any tables. */
import * as Crypto from "node:crypto"
import type { ConnectionError } from "@underlay/core/connection/Connection"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { asRecord, listOf } from "./client.ts"
import type { Faults } from "./faults.ts"
import type { Call, TransactGet, TransactWrite } from "./tableModel.ts"

/** The service takes no more in one transaction. */
const mostInTransaction = 100

export const make = (faults: Faults, call: Call) => {
  const { failure } = faults

  const transactional = (method: string, count: number): Effect.Effect<void, ConnectionError> =>
    count === 0 || count > mostInTransaction
      ? failure("InvalidRequest", method, `a transaction has 1 to ${mostInTransaction} operations`, false)
      : Effect.void

  return {
    transactWrite: (
      operations: ReadonlyArray<TransactWrite>,
      options?: { readonly token?: string | undefined }
    ): Effect.Effect<void, ConnectionError> =>
      Effect.gen(function* () {
        yield* transactional("TransactWriteItems", operations.length)
        const items = yield* Effect.forEach(operations, ({ wire }) => wire)
        const token = options?.token ?? Crypto.randomUUID()
        if (!(token.length >= 1 && token.length <= 36)) {
          return yield* failure("InvalidRequest", "TransactWriteItems", "a token has 1 to 36 characters", false)
        }
        yield* call("TransactWriteItems", { TransactItems: items, ClientRequestToken: token }, true)
      }),
    transactGet: <const Gets extends ReadonlyArray<TransactGet<unknown>>>(gets: Gets) =>
      Effect.gen(function* () {
        yield* transactional("TransactGetItems", gets.length)
        const items = yield* Effect.forEach(gets, ({ wire }) => wire)
        const output = yield* call("TransactGetItems", { TransactItems: items }, true)
        const found = listOf(output["Responses"])
        const read: Array<Option.Option<unknown>> = []
        for (const [index, get] of gets.entries()) {
          const item = asRecord(found[index])?.["Item"]
          read.push(item === undefined ? Option.none() : Option.some(yield* get.read(item)))
        }
        // each was read by its own `read`
        return read as { readonly [K in keyof Gets]: Gets[K] extends TransactGet<infer A> ? Option.Option<A> : never }
      })
  }
}
