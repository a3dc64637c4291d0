import { Effect, Duration } from "effect"
import Pg from "pg"
import * as S from "../../packages/connections/src/internal/postgres/session.ts"
import * as PostgresServer from "../../servers/src/PostgresServer.ts"
const main = Effect.gen(function* () {
  const server = yield* PostgresServer.make()
  yield* server.sql("create table items (id int primary key, name text not null, price float8 not null, made timestamptz not null);" +
      "insert into items select n, 'item ' || n, n / 3.0, now() from generate_series(1, 10000) n; analyze items")
  const many = "select id, name, price, made from items order by id limit 1000"
  const client = new Pg.Client({ connectionString: server.url }); yield* Effect.promise(() => client.connect())
  let session!: S.PostgresSession
  yield* S.connect({ kind: "x", name: "x", driver: Pg as any, config: Effect.succeed({ connectionString: server.url }), connectTimeout: Duration.seconds(5), cancelTimeout: Duration.seconds(1), statementTimeout: undefined, statements: undefined }, (s) => { session = s })
  const p = () => new Promise<any>((r) => client.query(many, (e: any, x: any) => r(x.rows)))
  const o = () => new Promise<any>((r) => { session.submit({ sql: many, params: [], rows: "object" }, (x: any) => r(x.rows)) })
  for (let i = 0; i < 10; i++) for (const [n, f] of [["pg", p], ["ours", o]] as const) {
    const b = process.cpuUsage(); for (let k = 0; k < 200; k++) yield* Effect.promise(f as any); const u = process.cpuUsage(b); console.log(n, ((u.user + u.system) / 200).toFixed(0), "us")
  }
})
Effect.runPromise(Effect.scoped(main) as any).then(() => process.exit(0), (e) => { console.log(e); process.exit(1) })
