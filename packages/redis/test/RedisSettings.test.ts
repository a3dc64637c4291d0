import { FileSystem } from "@effect/platform"
import { assert, describe, it } from "@effect/vitest"
import { Settings } from "@underlay/core"
import { RedisSettings } from "@underlay/redis"
import { ConfigProvider, Duration, Effect, Either, Layer, Option, Redacted } from "effect"
import { failureOf } from "./RedisClientSupport.ts"

type Texts = Readonly<Record<string, string>>

const provider = (settings: Texts, variables: Texts) =>
  ConfigProvider.fromMap(new Map([...Object.entries(settings), ...Object.entries(variables)]), { pathDelim: "." })

const read = (explicit: RedisSettings.Explicit, settings: Texts, variables: Texts) =>
  Effect.withConfigProvider(RedisSettings.config(explicit), provider(settings, variables))

const shown = (settings: RedisSettings.RedisSettings) => ({
  host: settings.host,
  port: settings.port,
  username: Option.getOrNull(settings.username),
  password: Option.getOrNull(Option.map(settings.password, Redacted.value)),
  db: settings.db,
  tls: settings.tls
})

const defaults = { host: "localhost", port: 6379, username: null, password: null, db: 0, tls: false }

interface Row {
  readonly name: string
  readonly explicit?: RedisSettings.Explicit
  readonly settings?: Texts
  readonly variables?: Texts
  readonly expected: Partial<typeof defaults> | { readonly [K in keyof typeof defaults]?: unknown }
}

const files: Texts = { "redis.host": "files", "redis.port": "3", "redis.db": "3", "redis.password": "files-secret" }
const environment: Texts = {
  REDIS_HOST: "environment",
  REDIS_PORT: "4",
  REDIS_DB: "4",
  REDIS_USERNAME: "environment-user",
  REDIS_PASSWORD: "environment-secret",
  REDIS_TLS: "true"
}
const url: Texts = { REDIS_URL: "rediss://url-user:url-secret@url:2/2" }
const ofUrl = { host: "url", port: 2, username: "url-user", password: "url-secret", db: 2, tls: true }

const table: ReadonlyArray<Row> = [
  { name: "5: nothing at all", expected: {} },
  {
    name: "4: REDIS_HOST and its siblings",
    variables: environment,
    expected: {
      host: "environment",
      port: 4,
      db: 4,
      username: "environment-user",
      password: "environment-secret",
      tls: true
    }
  },
  {
    name: "3: the settings win over REDIS_HOST, field by field",
    settings: files,
    variables: environment,
    expected: { host: "files", port: 3, db: 3, password: "files-secret", username: "environment-user", tls: true }
  },
  {
    name: "3: a URL in the settings decides as a whole",
    settings: { "redis.url": "redis://files-url:33", "redis.db": "9" },
    variables: environment,
    expected: { host: "files-url", port: 33 }
  },
  { name: "2: REDIS_URL wins over both", settings: files, variables: { ...environment, ...url }, expected: ofUrl },
  {
    name: "2: REDIS_URL decides what it does not say, too: no password of another server is sent to it",
    settings: files,
    variables: { ...environment, REDIS_URL: "redis://url" },
    expected: { host: "url" }
  },
  {
    name: "1: what the program says wins over REDIS_URL, field by field",
    explicit: { db: 1, password: "said" },
    settings: files,
    variables: { ...environment, ...url },
    expected: { ...ofUrl, db: 1, password: "said" }
  },
  {
    name: "1: an explicit host makes REDIS_URL irrelevant",
    explicit: { host: "said" },
    settings: files,
    variables: { ...environment, ...url },
    expected: { host: "said", port: 3, db: 3, password: "files-secret", username: "environment-user", tls: true }
  },
  {
    name: "1: an explicit URL decides as a whole",
    explicit: { url: Redacted.make("redis://:said@said:1/1") },
    settings: files,
    variables: { ...environment, ...url },
    expected: { host: "said", port: 1, db: 1, password: "said" }
  },
  {
    name: "an explicit host makes a wrong REDIS_URL irrelevant",
    explicit: { host: "said" },
    variables: { REDIS_URL: "http://wrong" },
    expected: { host: "said" }
  },
  {
    name: "REDIS_PORT as Kubernetes injects it",
    variables: { REDIS_PORT: "tcp://10.96.0.17:6380" },
    expected: { host: "10.96.0.17", port: 6380 }
  },
  {
    name: "REDIS_PORT as Kubernetes injects it, beside a host",
    variables: { REDIS_HOST: "redis.internal", REDIS_PORT: "tcp://10.96.0.17:6380" },
    expected: { host: "redis.internal", port: 6380 }
  },
  {
    name: "empty values count as not set, an empty password is no password",
    variables: { REDIS_URL: "", REDIS_HOST: "", REDIS_PORT: "", REDIS_PASSWORD: "", REDIS_DB: "", REDIS_TLS: "" },
    expected: {}
  },
  { name: "an empty explicit password is no password", explicit: { password: "" }, expected: { password: null } },
  {
    name: "an escaped password and an address of version 6",
    explicit: { url: "redis://us%40er:p%3A%2F%40@[::1]:7000" },
    expected: { host: "::1", port: 7000, username: "us@er", password: "p:/@" }
  },
  { name: "a database in the query", explicit: { url: "redis://h?db=7" }, expected: { host: "h", db: 7 } }
]

const wrong: ReadonlyArray<Omit<Row, "expected"> & { readonly where: string }> = [
  { name: "REDIS_URL of another scheme", variables: { ...environment, REDIS_URL: "http://h" }, where: "REDIS_URL" },
  { name: "REDIS_URL without a host", variables: { ...environment, REDIS_URL: "redis://" }, where: "REDIS_URL" },
  { name: "REDIS_URL that is none", variables: { ...environment, REDIS_URL: "localhost:6379" }, where: "REDIS_URL" },
  { name: "REDIS_URL with a database that is no number", variables: { REDIS_URL: "redis://h/x" }, where: "REDIS_URL" },
  {
    name: "a port in the settings, though REDIS_PORT is fine",
    settings: { "redis.port": "six" },
    variables: environment,
    where: "redis.port"
  },
  { name: "REDIS_URL with port 0", variables: { REDIS_URL: "redis://h:0" }, where: "REDIS_URL" },
  {
    name: "a command timeout that no timer can hold",
    explicit: { commandTimeout: "30 days" },
    where: "commandTimeout"
  },
  { name: "REDIS_PORT", variables: { REDIS_PORT: "70000" }, where: "REDIS_PORT" },
  { name: "REDIS_PORT of another scheme", variables: { REDIS_PORT: "udp://h:1" }, where: "REDIS_PORT" },
  { name: "REDIS_DB", variables: { REDIS_DB: "-1" }, where: "REDIS_DB" },
  { name: "REDIS_TLS", variables: { REDIS_TLS: "maybe" }, where: "REDIS_TLS" },
  { name: "REDIS_HOST with a scheme", variables: { REDIS_HOST: "redis://h" }, where: "REDIS_HOST" },
  {
    name: "an explicit port, though all others are fine",
    explicit: { port: 0 },
    variables: environment,
    where: "port"
  },
  { name: "an explicit database", explicit: { db: 1.5 }, where: "db" },
  { name: "an infinite command timeout", explicit: { commandTimeout: Duration.infinity }, where: "commandTimeout" },
  { name: "no command timeout", explicit: { commandTimeout: 0 }, where: "commandTimeout" },
  { name: "a connect timeout", settings: { "redis.connectTimeout": "soon" }, where: "redis.connectTimeout" }
]

describe("RedisSettings", () => {
  for (const row of table) {
    it.effect(row.name, () =>
      Effect.gen(function* () {
        const found = yield* read(row.explicit ?? {}, row.settings ?? {}, row.variables ?? {})
        assert.deepStrictEqual(shown(found), { ...defaults, ...row.expected } as ReturnType<typeof shown>)
      })
    )
  }

  for (const row of wrong) {
    it.effect(`is set but wrong and never falls through: ${row.name}`, () =>
      Effect.gen(function* () {
        const error = yield* failureOf(read(row.explicit ?? {}, row.settings ?? {}, row.variables ?? {}))
        assert.include(String(error), row.where)
      })
    )
  }

  it.effect("all errors come at once, and none holds a value", () =>
    Effect.gen(function* () {
      const error = yield* failureOf(
        read(
          { db: -1 },
          { "redis.commandTimeout": "soon" },
          { REDIS_PORT: "hunter2", REDIS_TLS: "hunter2", REDIS_HOST: "hunter2@h" }
        )
      )
      for (const where of ["db", "redis.commandTimeout", "REDIS_PORT", "REDIS_TLS", "REDIS_HOST"]) {
        assert.include(String(error), where)
      }
      assert.notInclude(String(error), "hunter2")
    })
  )

  it.effect("times: 5 s to connect and 500 ms for a command unless told otherwise", () =>
    Effect.gen(function* () {
      const usual = yield* read({}, {}, {})
      assert.strictEqual(Duration.toMillis(usual.connectTimeout), 5_000)
      assert.strictEqual(Duration.toMillis(usual.commandTimeout), 500)
      const set = yield* read(
        { connectTimeout: "1 second" },
        { "redis.connectTimeout": "2 seconds", "redis.commandTimeout": "250" },
        {}
      )
      assert.strictEqual(Duration.toMillis(set.connectTimeout), 1_000)
      assert.strictEqual(Duration.toMillis(set.commandTimeout), 250)
    })
  )

  it.effect("core's Settings: a file wins over REDIS_HOST, and REDIS_URL over the file", () =>
    Effect.gen(function* () {
      const file = ["redis:", "  host: files", `  port: $${"{PORT_OF_REDIS:3}"}`].join("\n")
      const layer = (env: Texts) =>
        Settings.layer({ files: ["application.yaml"], dotenv: false, env }).pipe(
          Layer.provide(
            FileSystem.layerNoop({
              readFileString: (path) =>
                path.endsWith("application.yaml") ? Effect.succeed(file) : Effect.die(`no other file: ${path}`)
            })
          )
        )
      const loaded = (env: Texts) => Effect.map(Effect.provide(RedisSettings.load(), layer(env)), shown)
      assert.deepStrictEqual(yield* loaded({ REDIS_HOST: "environment", REDIS_PORT: "4", REDIS_PASSWORD: "secret" }), {
        ...defaults,
        host: "files",
        port: 3,
        password: "secret"
      } as never)
      assert.deepStrictEqual(yield* loaded({ PORT_OF_REDIS: "33" }), { ...defaults, host: "files", port: 33 })
      assert.deepStrictEqual(yield* loaded({ REDIS_URL: "redis://url:2" }), { ...defaults, host: "url", port: 2 })
      const error = yield* failureOf(loaded({ PORT_OF_REDIS: "many", REDIS_PORT: "4" }))
      assert.include(String(error), "redis.port")
    })
  )

  it.effect("core's Settings: each error names its file, line and column or its variable", () =>
    Effect.gen(function* () {
      const file = ["redis:", "  port: six", "  db: -1"].join("\n")
      const layer = Settings.layer({ files: ["application.yaml"], dotenv: false, env: { REDIS_TLS: "maybe" } }).pipe(
        Layer.provide(
          FileSystem.layerNoop({
            readFileString: (path) =>
              path.endsWith("application.yaml") ? Effect.succeed(file) : Effect.die(`no other file: ${path}`)
          })
        )
      )
      const error = yield* failureOf(Effect.provide(Effect.asVoid(RedisSettings.config()), layer))
      for (const where of [
        "application.yaml:2:9: redis.port",
        "application.yaml:3:7: redis.db",
        "variable REDIS_TLS"
      ]) {
        assert.include(String(error), where)
      }
      assert.notInclude(String(error), "override")
    })
  )

  it("a password does not show when settings are printed", () => {
    const settings = Either.getOrThrow(RedisSettings.fromExplicit({ url: "redis://:hunter2@h" }))
    assert.notInclude(JSON.stringify(settings), "hunter2")
    assert.notInclude(String(settings.password), "hunter2")
  })
})
