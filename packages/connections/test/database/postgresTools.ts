import type { SqlClient } from "@effect/sql"
import { Connection } from "@underlay/core"
import * as PostgresServer from "@underlay/servers/PostgresServer"
import * as Timed from "@underlay/servers/Timed"
import { Context, Duration, Effect, Layer, Redacted } from "effect"
import { DatabaseError, Postgres } from "../../src/index.ts"

export class Server extends Context.Tag("test/PostgresServer")<Server, PostgresServer.PostgresServer>() {
  static readonly layer = Layer.scoped(Server, PostgresServer.make({ settings: { max_connections: "40" } }))
}

export const connect = (settings: Postgres.PostgresSettings = {}, name?: string) =>
  Effect.flatMap(Server, ({ url }) => Postgres.make({ url: Redacted.make(url), plane: "internal", ...settings }, name))

export const errorOf = (error: unknown): Connection.ConnectionError => {
  if (error instanceof DatabaseError.DatabaseError) return error.cause
  if (error instanceof Connection.ConnectionError) return error
  throw new Error(`not a typed error: ${String(error)}`)
}

export const timed = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.map(Timed.timed(effect), ([value, took]) => [Duration.millis(took), value] as const)

/** Turns of the event loop, in each of which sockets are read and written. */
export const turns = (count: number) =>
  Effect.repeatN(
    Effect.async<void>((resume) => {
      setImmediate(() => resume(Effect.void))
    }),
    count - 1
  )

/** Until the server says so, which is asked again and again. */
export const eventually = <E, R>(what: string, condition: Effect.Effect<boolean, E, R>) =>
  Effect.flatMap(condition, (is) => (is ? Effect.void : Effect.fail(what))).pipe(Effect.retry({ times: 300 }))

/** Until it is so in this process, looked at after each turn of the event loop. */
export const soon = <E, R>(what: string, condition: Effect.Effect<boolean, E, R>) =>
  Effect.zipRight(turns(1), condition).pipe(
    Effect.flatMap((is) => (is ? Effect.void : Effect.fail(what))),
    Effect.retry({ times: 500_000 })
  )

/** How many statements with this text run, as another connection sees it. */
export const running = (watch: SqlClient.SqlClient, text: string) =>
  Effect.map(
    watch`select from pg_stat_activity where state = 'active' and query like ${`%${text}%`} and pid <> pg_backend_pid()`,
    (rows) => rows.length
  )

export const connectionsNamed = (name: string) =>
  Effect.flatMap(Server, ({ sql }) =>
    Effect.map(sql(`select count(*) from pg_stat_activity where application_name = '${name}'`), Number)
  )
