/**
 * A transaction: its session is used by one operation at a time, by the fiber that began it and those that it forks, and
 * by nobody once it has ended.
 */
import { ConnectionError } from "@underlay/core/connection/Connection"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberRef from "effect/FiberRef"
import type * as Mongo from "mongodb"
import { type At, codeOf, hasLabel } from "./errors.ts"

export interface Transaction {
  readonly session: Mongo.ClientSession
  readonly lock: Effect.Semaphore
  over: boolean
  /** Why it cannot be committed any more. */
  doom: { readonly error: ConnectionError; readonly transient: boolean } | undefined
}

/** Each connection has one of its own. Who joins a fiber of a transaction does not come into it. */
export const makeRef = (): FiberRef.FiberRef<Transaction | undefined> =>
  FiberRef.unsafeMake<Transaction | undefined>(undefined, { join: (own) => own })

const error = (at: At, reason: "Closed" | "Cancelled" | "InvalidRequest", description: string) =>
  new ConnectionError({ reason, kind: at.kind, connection: at.name, method: at.method, description })

export const isTransient = (thrown: unknown): boolean => hasLabel(thrown, "TransientTransactionError")

/** Takes a failed operation for what it means to its transaction: the server has ended it, or will not know it again. */
export const fail = (transaction: Transaction, failure: ConnectionError): void => {
  const transient = isTransient(failure.cause)
  const lost = codeOf(failure.cause) !== undefined || transient || failure.reason !== "InvalidRequest"
  if (lost && (transaction.doom === undefined || (transient && !transaction.doom.transient))) {
    transaction.doom = { error: failure, transient }
  }
}

/** Within a transaction nothing is made again by itself, not even what was never sent: it would find it doomed. */
const sent = <E>(failure: E): E | ConnectionError =>
  failure instanceof ConnectionError && failure.sent === false ? failure.with({ sent: true }) : failure

/** Runs an operation as the only one of its transaction. */
export const alone = <A, E, R>(
  transaction: Transaction,
  at: At,
  effect: Effect.Effect<A, E, R>
): Effect.Effect<A, E | ConnectionError, R> =>
  transaction.lock.withPermits(1)(
    Effect.suspend((): Effect.Effect<A, E | ConnectionError, R> => {
      if (transaction.over) return error(at, "Closed", "the transaction that it belongs to has ended")
      if (transaction.doom !== undefined) {
        return error(
          at,
          "InvalidRequest",
          "an earlier operation of this transaction failed or was interrupted, so this one was not sent"
        )
      }
      return Effect.onExit(Effect.mapError(effect, sent), (exit) =>
        Effect.sync(() => {
          if (Exit.isSuccess(exit)) return
          if (exit.cause._tag === "Fail") {
            if (exit.cause.error instanceof ConnectionError) fail(transaction, exit.cause.error)
            return
          }
          // Whether the server got it, and has done with it, is not known.
          transaction.doom ??= {
            error: error(at, "Cancelled", "an operation of this transaction was interrupted, so it was rolled back"),
            transient: false
          }
        })
      )
    })
  )
