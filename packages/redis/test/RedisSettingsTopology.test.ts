import { FileSystem } from "@effect/platform"
import { assert, describe, it } from "@effect/vitest"
import { Settings } from "@underlay/core"
import { RedisSettings } from "@underlay/redis"
import { ConfigProvider, Effect, Either, FastCheck, Layer, Option, Redacted } from "effect"
import { failureOf } from "./RedisClientSupport.ts"

type Texts = Readonly<Record<string, string>>

const read = (explicit: RedisSettings.Explicit, settings: Texts, variables: Texts) =>
  Effect.withConfigProvider(
    RedisSettings.config(explicit),
    ConfigProvider.fromMap(new Map([...Object.entries(settings), ...Object.entries(variables)]), { pathDelim: "." })
  )

const addresses = (all: ReadonlyArray<RedisSettings.Address>) =>
  all.map(({ host, port }) => `${host}:${port}`).join(" ")

const shown = (settings: RedisSettings.RedisSettings) => ({
  topology: settings.topology,
  host: settings.host,
  port: settings.port,
  sentinels: addresses(settings.sentinels),
  master: Option.getOrNull(settings.master),
  sentinelUsername: Option.getOrNull(settings.sentinelUsername),
  sentinelPassword: Option.getOrNull(Option.map(settings.sentinelPassword, Redacted.value)),
  sentinelTls: settings.sentinelTls,
  nodes: addresses(settings.nodes),
  username: Option.getOrNull(settings.username),
  password: Option.getOrNull(Option.map(settings.password, Redacted.value)),
  db: settings.db,
  tls: settings.tls,
  ca: Option.getOrNull(settings.ca),
  cert: Option.getOrNull(settings.cert),
  key: Option.getOrNull(Option.map(settings.key, Redacted.value)),
  serverName: Option.getOrNull(settings.serverName),
  rejectUnauthorized: settings.rejectUnauthorized
})

type Shown = ReturnType<typeof shown>

const defaults: Shown = {
  topology: "standalone",
  host: "localhost",
  port: 6379,
  sentinels: "",
  master: null,
  sentinelUsername: null,
  sentinelPassword: null,
  sentinelTls: false,
  nodes: "",
  username: null,
  password: null,
  db: 0,
  tls: false,
  ca: null,
  cert: null,
  key: null,
  serverName: null,
  rejectUnauthorized: true
}

interface Row {
  readonly name: string
  readonly explicit?: RedisSettings.Explicit
  readonly settings?: Texts
  readonly variables?: Texts
  readonly expected: Partial<Shown>
}

const environment: Texts = { REDIS_SENTINELS: "e1,e2:7", REDIS_MASTER: "env", REDIS_PASSWORD: "env-secret" }
const files: Texts = { "redis.nodes": "f1:1, f2", "redis.username": "files-user" }
const ofEnvironment: Partial<Shown> = {
  topology: "sentinel",
  host: "e1",
  port: 26379,
  sentinels: "e1:26379 e2:7",
  master: "env",
  password: "env-secret"
}

const table: ReadonlyArray<Row> = [
  { name: "4: Sentinels from the environment", variables: environment, expected: ofEnvironment },
  {
    name: "4: nodes of a Cluster from the environment",
    variables: { REDIS_NODES: "a:1,b,[::1]:3" },
    expected: { topology: "cluster", host: "a", port: 1, nodes: "a:1 b:6379 ::1:3" }
  },
  {
    name: "3: what the settings name decides over what the environment names; other fields still come one by one",
    settings: files,
    variables: environment,
    expected: {
      topology: "cluster",
      host: "f1",
      port: 1,
      nodes: "f1:1 f2:6379",
      username: "files-user",
      password: "env-secret"
    }
  },
  {
    name: "3: a host in the settings is one server, though the environment names Sentinels",
    settings: { "redis.host": "files" },
    variables: environment,
    expected: { host: "files", password: "env-secret" }
  },
  {
    name: "3: a port alone names no place",
    settings: { "redis.port": "5" },
    variables: environment,
    expected: ofEnvironment
  },
  {
    name: "3: Sentinels in the settings, their master in the environment",
    settings: { "redis.sentinels": "s1" },
    variables: environment,
    expected: { ...ofEnvironment, host: "s1", sentinels: "s1:26379" }
  },
  {
    name: "3: a Sentinel URL in the settings decides as a whole",
    settings: { ...files, "redis.url": "redis-sentinel://u:p@s1,s2:2/3#main" },
    variables: environment,
    expected: {
      topology: "sentinel",
      host: "s1",
      port: 26379,
      sentinels: "s1:26379 s2:2",
      master: "main",
      username: "u",
      password: "p",
      db: 3
    }
  },
  {
    name: "2: REDIS_URL of a Cluster wins over both",
    settings: files,
    variables: { ...environment, REDIS_URL: "rediss-cluster://:url%3Asecret@u1,u2:2" },
    expected: {
      topology: "cluster",
      host: "u1",
      nodes: "u1:6379 u2:2",
      password: "url:secret",
      tls: true,
      sentinelTls: true
    }
  },
  {
    name: "2: REDIS_URL of one server, though others name Sentinels and nodes",
    settings: files,
    variables: { ...environment, REDIS_URL: "redis://u1" },
    expected: { host: "u1" }
  },
  {
    name: "1: explicit Sentinels make REDIS_URL irrelevant",
    explicit: { sentinels: ["x:1", { host: "y", port: 2 }], master: "said" },
    variables: { ...environment, REDIS_URL: "http://wrong" },
    expected: {
      topology: "sentinel",
      host: "x",
      port: 1,
      sentinels: "x:1 y:2",
      master: "said",
      password: "env-secret"
    }
  },
  {
    name: "1: explicit nodes make REDIS_URL irrelevant",
    explicit: { nodes: ["x"] },
    variables: { REDIS_URL: "redis://url:2/2" },
    expected: { topology: "cluster", host: "x", nodes: "x:6379" }
  },
  {
    name: "1: an explicit URL with another master",
    explicit: { url: "redis-sentinel://s1#main", master: "said" },
    variables: environment,
    expected: { topology: "sentinel", host: "s1", port: 26379, sentinels: "s1:26379", master: "said" }
  },
  {
    name: "certificates and the Sentinels' own user are found below a URL too, for it cannot say them",
    explicit: { key: Redacted.make("said-key") },
    settings: { "redis.ca": "/files/ca.pem", "redis.serverName": "redis.internal", "redis.sentinelTls": "no" },
    variables: {
      REDIS_URL: "rediss-sentinel://s1#main",
      REDIS_TLS_CA: "/env/ca.pem",
      REDIS_TLS_CERT: "/env/cert.pem",
      REDIS_TLS_KEY: "/env/key.pem",
      REDIS_TLS_REJECT_UNAUTHORIZED: "false",
      REDIS_SENTINEL_USERNAME: "watcher",
      REDIS_SENTINEL_PASSWORD: "watch-secret"
    },
    expected: {
      topology: "sentinel",
      host: "s1",
      port: 26379,
      sentinels: "s1:26379",
      master: "main",
      tls: true,
      sentinelTls: false,
      ca: "/files/ca.pem",
      cert: "/env/cert.pem",
      key: "said-key",
      serverName: "redis.internal",
      rejectUnauthorized: false,
      sentinelUsername: "watcher",
      sentinelPassword: "watch-secret"
    }
  }
]

const wrong: ReadonlyArray<Omit<Row, "expected"> & { readonly where: string }> = [
  { name: "two places at once", explicit: { host: "h", nodes: ["n"] }, where: "nodes" },
  {
    name: "two places at once in the settings",
    settings: { "redis.sentinels": "s", "redis.nodes": "n", "redis.master": "m" },
    where: "redis.nodes"
  },
  {
    name: "two places at once in the environment",
    variables: { ...environment, REDIS_HOST: "h" },
    where: "REDIS_SENTINELS"
  },
  { name: "Sentinels without a master", explicit: { sentinels: ["s"] }, where: "master" },
  { name: "a Sentinel URL without a master", explicit: { url: "redis-sentinel://s" }, where: "url" },
  { name: "no Sentinels", explicit: { sentinels: [], master: "m" }, where: "sentinels" },
  { name: "no nodes", explicit: { nodes: [] }, where: "nodes" },
  { name: "a node with a scheme", explicit: { nodes: ["redis://h"] }, where: "nodes" },
  { name: "a Sentinel of port 0", variables: { ...environment, REDIS_SENTINELS: "s:0" }, where: "REDIS_SENTINELS" },
  { name: "a Cluster with a database", explicit: { nodes: ["n"], db: 1 }, where: "db" },
  { name: "a Cluster URL with a database", variables: { REDIS_URL: "redis-cluster://n/1" }, where: "REDIS_URL" },
  { name: "a Cluster with a database below it", settings: { "redis.nodes": "n", "redis.db": "2" }, where: "db" },
  { name: "a URL with an address too many", variables: { REDIS_URL: "redis://a,b" }, where: "REDIS_URL" },
  {
    name: "whether certificates are looked at",
    variables: { REDIS_TLS_REJECT_UNAUTHORIZED: "perhaps" },
    where: "REDIS_TLS_REJECT_UNAUTHORIZED"
  }
]

describe("RedisSettings: one server, Sentinel or Cluster", () => {
  for (const row of table) {
    it.effect(row.name, () =>
      Effect.gen(function* () {
        const found = yield* read(row.explicit ?? {}, row.settings ?? {}, row.variables ?? {})
        assert.deepStrictEqual(shown(found), { ...defaults, ...row.expected })
      })
    )
  }

  for (const row of wrong) {
    it.effect(`is wrong, and said to be: ${row.name}`, () =>
      Effect.gen(function* () {
        const error = yield* failureOf(read(row.explicit ?? {}, row.settings ?? {}, row.variables ?? {}))
        assert.include(String(error), row.where)
        assert.notInclude(String(error), "secret")
      })
    )
  }

  it.effect("lists in a YAML file, as lists and as texts", () =>
    Effect.gen(function* () {
      for (const sentinels of [
        ["  sentinels:", "    - s1:1", "    - s2"].join("\n"),
        '  sentinels: "s1:1, s2"',
        "  sentinels: s1:1,s2"
      ]) {
        const file = ["redis:", "  master: main", sentinels].join("\n")
        const layer = Settings.layer({ files: ["application.yaml"], dotenv: false, env: {} }).pipe(
          Layer.provide(
            FileSystem.layerNoop({
              readFileString: (path) =>
                path.endsWith("application.yaml") ? Effect.succeed(file) : Effect.die(`no other file: ${path}`)
            })
          )
        )
        const found = yield* Effect.provide(RedisSettings.load(), layer)
        assert.deepStrictEqual(shown(found).sentinels, "s1:1 s2:26379", sentinels)
      }
    })
  )

  it("secrets do not show when settings are printed", () => {
    const settings = RedisSettings.fromExplicit({
      url: "redis-sentinel://:hunter2@h#main",
      sentinelPassword: "hunter2",
      key: "hunter2"
    })
    assert.notInclude(JSON.stringify(settings), "hunter2")
  })

  it("what is written as a URL is read as it was meant", () => {
    const host = FastCheck.stringMatching(/^[a-z][a-z0-9.-]{0,10}$/)
    const address = FastCheck.record({ host, port: FastCheck.integer({ min: 1, max: 65_535 }) })
    const text = FastCheck.string({ minLength: 1, maxLength: 10 }).filter((one) => one.trim() === one)
    const property = FastCheck.property(
      FastCheck.array(address, { minLength: 1, maxLength: 4 }),
      text,
      text,
      text,
      FastCheck.boolean(),
      (servers, user, password, master, tls) => {
        const listed = servers.map(({ host, port }) => `${host}:${port}`).join(",")
        const credentials = `${encodeURIComponent(user)}:${encodeURIComponent(password)}`
        const scheme = tls ? "rediss" : "redis"
        const url = `${scheme}-sentinel://${credentials}@${listed}/3#${encodeURIComponent(master)}`
        const found = Either.mapBoth(RedisSettings.fromExplicit({ url }), { onLeft: String, onRight: shown })
        assert.deepStrictEqual(
          found,
          Either.right({
            ...defaults,
            topology: "sentinel",
            host: servers[0]?.host ?? "",
            port: servers[0]?.port ?? 0,
            sentinels: addresses(servers),
            master,
            username: user,
            password,
            db: 3,
            tls,
            sentinelTls: tls
          })
        )
      }
    )
    FastCheck.assert(property, { numRuns: 100 })
  })
})
