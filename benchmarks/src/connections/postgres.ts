/** Reading one row by its key, and a thousand rows, beside pg, postgres.js and `@effect/sql-pg`. */
import { PgClient } from "@effect/sql-pg"
import * as Postgres from "@underlay/connections/database/Postgres"
import { Context, Effect, Redacted } from "effect"
import Pg from "pg"
import PostgresJs from "postgres"
import * as PostgresServer from "../../../servers/src/PostgresServer.ts"
import type * as Load from "../redis/Load.ts"
import { built, type Comparing, checked, compared, peer } from "./place.ts"

const text = "select id, name, price, made from items where id = "
const many = "select id, name, price, made from items order by id limit 1000"
const max = 10

export const comparing: Comparing = Effect.gen(function* () {
  const server = yield* PostgresServer.make()
  yield* server.sql(
    "create table items (id int primary key, name text not null, price float8 not null, made timestamptz not null);" +
      "insert into items select n, 'item ' || n, n / 3.0, now() from generate_series(1, 10000) n; analyze items"
  )
  const { url } = server
  const pool = yield* peer(
    () => new Pg.Pool({ connectionString: url, max }),
    (pool) => pool.end()
  )
  const js = yield* peer(
    () => PostgresJs(url, { max, onnotice: () => {} }),
    (sql) => sql.end()
  )
  const peerSql = Context.get(
    yield* built(PgClient.layer({ url: Redacted.make(url), maxConnections: max })),
    PgClient.PgClient
  )
  const oursOf = (settings: Omit<Postgres.PostgresSettings, "url" | "maxConnections">) =>
    Effect.map(Postgres.make({ url: Redacted.make(url), maxConnections: max, ...settings }), ({ sql }) => sql)
  const ours = yield* oursOf({ plane: "internal" })
  const watched = yield* oursOf({ plane: "external" })

  const subjects = (
    named: string,
    how: {
      readonly pg: (n: number) => () => Promise<unknown>
      readonly prepared: (n: number) => () => Promise<unknown>
      readonly js: (n: number) => () => Promise<unknown>
      /** Where it is not prepared anyway. */
      readonly jsPrepared?: (n: number) => () => Promise<unknown>
      readonly effect: (sql: typeof ours, n: number) => Effect.Effect<unknown, unknown>
    }
  ): ReadonlyArray<Load.Subject> => [
    { name: "pg 8", promise: how.pg },
    { name: `pg 8, prepared as "${named}"`, promise: how.prepared },
    { name: "postgres 3", promise: how.js },
    ...(how.jsPrepared === undefined ? [] : [{ name: "postgres 3, prepared", promise: how.jsPrepared }]),
    { name: "@effect/sql-pg", effect: (n) => how.effect(peerSql, n) },
    { name: "ours, internal", effect: (n) => how.effect(ours, n) },
    { name: "ours, external", effect: (n) => how.effect(watched, n) }
  ]

  const rowsOf = (answer: unknown): ReadonlyArray<unknown> =>
    Array.isArray(answer) ? answer : ((answer as { readonly rows?: ReadonlyArray<unknown> }).rows ?? [])
  /** All build the same rows of the same values. */
  const gives = (count: number) => (answer: unknown) => {
    const rows = rowsOf(answer)
    const row = rows[0] as Readonly<Record<string, unknown>> | undefined
    return (
      rows.length === count &&
      row !== undefined &&
      Object.keys(row).join() === "id,name,price,made" &&
      typeof row["id"] === "number" &&
      typeof row["name"] === "string" &&
      typeof row["price"] === "number" &&
      row["made"] instanceof Date
    )
  }

  let next = 0
  const id = (): number => (next = (next % 10_000) + 1)
  const points = yield* checked(
    subjects("point", {
      pg: () => () => pool.query(`${text}$1`, [id()]),
      prepared: () => () => pool.query({ name: "point", text: `${text}$1`, values: [id()] }),
      js: () => () => js`select id, name, price, made from items where id = ${id()}`.execute(),
      effect: (sql) => Effect.suspend(() => sql`select id, name, price, made from items where id = ${id()}`)
    }),
    gives(1)
  )
  const thousands = yield* checked(
    subjects("many", {
      pg: () => () => pool.query(many),
      prepared: () => () => pool.query({ name: "many", text: many }),
      js: () => () => js.unsafe(many).execute(),
      jsPrepared: () => () => js.unsafe(many, [], { prepare: true }).execute(),
      effect: (sql) => sql.unsafe(many)
    }),
    gives(1_000)
  )
  const inTransaction = (ask: (client: Pg.PoolClient) => Promise<unknown>) => async () => {
    const client = await pool.connect()
    try {
      await client.query("begin")
      const answer = await ask(client)
      await client.query("commit")
      return answer
    } finally {
      client.release()
    }
  }
  const transactions = yield* checked(
    [
      { name: "pg 8", promise: () => inTransaction((client) => client.query(`${text}$1`, [id()])) },
      {
        name: 'pg 8, prepared as "point"',
        promise: () => inTransaction((client) => client.query({ name: "point", text: `${text}$1`, values: [id()] }))
      },
      {
        name: "postgres 3",
        promise: () => () => js.begin((sql) => sql`select id, name, price, made from items where id = ${id()}`)
      },
      ...[
        { name: "@effect/sql-pg", sql: peerSql },
        { name: "ours, internal", sql: ours },
        { name: "ours, external", sql: watched }
      ].map(
        ({ name, sql }): Load.Subject => ({
          name,
          effect: () =>
            sql.withTransaction(Effect.suspend(() => sql`select id, name, price, made from items where id = ${id()}`))
        })
      )
    ],
    gives(1)
  )
  const limits = (base: string): ReadonlyArray<Load.Limit> =>
    ["pg 8", "postgres 3", "@effect/sql-pg"].map((to) => ({ subject: base, to, atMost: 1.1 }))
  return [
    yield* compared({
      title: "PostgreSQL: one row by its key",
      base: "pg 8",
      subjects: points,
      limits: limits("ours, internal"),
      concurrency: [1, max],
      // one at a time the process mostly waits, and what waking it costs varies
      rounds: 21,
      sliceMs: 200
    }),
    yield* compared({
      title: "PostgreSQL: a thousand rows",
      base: "pg 8",
      subjects: thousands,
      limits: limits("ours, internal"),
      concurrency: [1],
      rounds: 21,
      sliceMs: 200
    }),
    yield* compared({
      title: "PostgreSQL: a transaction of one statement",
      base: "pg 8",
      subjects: transactions,
      concurrency: [1, max]
    })
  ]
})
