/**
 * dynalite: DynamoDB's protocol by a program of npm, in memory. It checks no signature and has no transactions, no
 * PartiQL, no TTL, and gives no item with a failed condition.
 */
import { createRequire } from "node:module"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Dynamo from "./internal/dynamo.ts"

export type { DynamoServer as DynaliteServer } from "./internal/dynamo.ts"
export { DynamoServerError as DynaliteServerError } from "./internal/dynamo.ts"

/** Options of a server. */
export interface DynaliteServerOptions {
  /** How long a table is in the making, being changed and being deleted, in milliseconds: 20. */
  readonly tableMillis?: number | undefined
}

/** Starts a server for the life of the scope. */
export const make = (
  options: DynaliteServerOptions = {}
): Effect.Effect<Dynamo.DynamoServer, Dynamo.DynamoServerError, Scope.Scope> =>
  Effect.suspend(() => {
    const program = createRequire(import.meta.url).resolve("dynalite/cli.js")
    const millis = String(options.tableMillis ?? 20)
    return Dynamo.run(
      "dynalite",
      process.execPath,
      (port) => [
        ...[program, "--host", "127.0.0.1", "--port", String(port)],
        ...["--createTableMs", millis, "--deleteTableMs", millis, "--updateTableMs", millis]
      ],
      20_000
    )
  })
