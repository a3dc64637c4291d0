import { PgClient } from "@effect/sql-pg"
import * as Postgres from "@underlay/connections/database/Postgres"
import { Context, Effect, Layer, Redacted, Scope } from "effect"
import Pg from "pg"
import PostgresJs from "postgres"
import * as PostgresServer from "../../servers/src/PostgresServer.ts"

const main = Effect.gen(function* () {
  const server = yield* PostgresServer.make()
  yield* server.sql("create table items (id int primary key, name text not null, price float8 not null, made timestamptz not null);" +
      "insert into items select n, 'item ' || n, n / 3.0, now() from generate_series(1, 10000) n; analyze items")
  const { url } = server
  const pool = new Pg.Pool({ connectionString: url, max: 10 })
  const js = PostgresJs(url, { max: 10, onnotice: () => {} })
  const peer = Context.get(yield* Layer.build(PgClient.layer({ url: Redacted.make(url), maxConnections: 10 })), PgClient.PgClient)
  const ours = (yield* Postgres.make({ url: Redacted.make(url), plane: "internal" })).sql
  const unprepared = (yield* Postgres.make({ url: Redacted.make(url), plane: "internal", prepare: false })).sql
  let n = 0
  const id = () => (n = (n % 10000) + 1)
  const pLoop = (count: number, conc: number, f: () => Promise<unknown>) => Effect.promise(() => Promise.all(Array.from({length: conc}, async () => { for (let i = 0; i < count/conc; i++) await f() })))
  const eLoop = (count: number, conc: number, f: Effect.Effect<unknown, unknown>) => Effect.all(Array.from({length: conc}, () => Effect.gen(function*(){ for (let i = 0; i < count/conc; i++) yield* f })), { concurrency: "unbounded" })
  const many = "select id, name, price, made from items order by id limit 1000"
  const e = (sql: any) => Effect.suspend(() => sql`select id, name, price, made from items where id = ${id()}`)
  const tests: Record<string, (k: number, c: number) => Effect.Effect<unknown, unknown>> = {
    "point pg": (k, c) => pLoop(k, c, () => pool.query("select id, name, price, made from items where id = $1", [id()])),
    "point pg prepared": (k, c) => pLoop(k, c, () => pool.query({ name: "point", text: "select id, name, price, made from items where id = $1", values: [id()] })),
    "point js": (k, c) => pLoop(k, c, () => js`select id, name, price, made from items where id = ${id()}`.execute() as any),
    "point sql-pg": (k, c) => eLoop(k, c, e(peer)),
    "point ours": (k, c) => eLoop(k, c, e(ours)),
    "point ours unprepared": (k, c) => eLoop(k, c, e(unprepared)),
    "many pg": (k, c) => pLoop(k / 10, c, () => pool.query(many)),
    "many js": (k, c) => pLoop(k / 10, c, () => js.unsafe(many, [], { prepare: true }).execute() as any),
    "many pgE": (k, c) => eLoop(k / 10, c, Effect.async<any>((r) => { pool.query(many, (e: any, x: any) => r(Effect.succeed(x.rows))) })),
    "many pgRun": (k, c) => pLoop(k / 10, c, () => Effect.runPromise(Effect.async<any>((r) => { pool.query(many, (e: any, x: any) => r(Effect.succeed(x.rows))) }))),
    "many oursRun": (k, c) => pLoop(k / 10, c, () => Effect.runPromise(ours.unsafe(many))),
    "many sql-pg": (k, c) => eLoop(k / 10, c, peer.unsafe(many)),
    "many ours": (k, c) => eLoop(k / 10, c, ours.unsafe(many)),
    "tx pg": (k, c) => pLoop(k / 3, c, async () => { const cl = await pool.connect(); try { await cl.query("begin"); await cl.query("select id from items where id = $1", [id()]); await cl.query("commit") } finally { cl.release() } }),
    "tx js": (k, c) => pLoop(k / 3, c, () => js.begin((sql) => sql`select id from items where id = ${id()}`) as any),
    "tx sql-pg": (k, c) => eLoop(k / 3, c, peer.withTransaction(Effect.suspend(() => peer`select id from items where id = ${id()}`))),
    "tx ours": (k, c) => eLoop(k / 3, c, ours.withTransaction(Effect.suspend(() => ours`select id from items where id = ${id()}`)))
  }
  const only = process.argv[2]
  for (const conc of [1, 10]) {
    const sums: Record<string, Array<number>> = {}
    const walls: Record<string, Array<number>> = {}
    for (let round = 0; round < 9; round++) for (const [name, f] of Object.entries(tests)) {
      if (only && !name.includes(only)) continue
      const before = process.cpuUsage(); const t = performance.now()
      yield* f(1000, conc)
      const used = process.cpuUsage(before)
      if (round > 1) { (sums[name] ??= []).push((used.user + used.system) / 1000); (walls[name] ??= []).push(performance.now() - t) }
    }
    for (const [name, v] of Object.entries(sums)) { const m = (a: number[]) => a.sort((a, b) => a - b)[a.length >> 1]!; console.log(conc, name.padEnd(24), "cpu", m(v).toFixed(1).padStart(8), "min", v[0]!.toFixed(1), "wall", m(walls[name]!).toFixed(1)) }
  }
  yield* Effect.promise(() => pool.end()); yield* Effect.promise(() => js.end())
})
Effect.runPromise(Effect.scoped(main) as any).then(() => process.exit(0))
