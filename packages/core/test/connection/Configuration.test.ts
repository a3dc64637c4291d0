import { FileSystem } from "@effect/platform"
import { assert, describe, it } from "@effect/vitest"
import { ConfigError, ConfigProvider, Duration, Effect, Either, Exit, Layer, Redacted, Schema } from "effect"
import * as Settings from "../../src/config/Settings.ts"
import * as Connection from "../../src/connection/Connection.ts"
import * as ConnectionLifecycle from "../../src/connection/ConnectionLifecycle.ts"
import * as Connections from "../../src/connection/Connections.ts"

const { Fields } = Connection

const StoreSettings = Schema.Struct({
  url: Fields.Url,
  password: Schema.optional(Fields.Secret),
  maxConnections: Schema.optional(Fields.Count),
  timeout: Schema.optional(Fields.Duration),
  plane: Schema.optional(Fields.Plane),
  connect: Schema.optional(Fields.ConnectMode),
  flag: Schema.optionalWith(Fields.Flag, { default: () => true }),
  tls: Schema.optional(Schema.Struct({ ca: Schema.String, port: Schema.optional(Fields.Port) })),
  hosts: Schema.optional(Schema.Array(Schema.NonEmptyString)),
  labels: Schema.optional(Schema.Record({ key: Schema.String, value: Schema.String }))
})

const kindNamed = <A, I>(kind: string, schema: Schema.Schema<A, I>) =>
  Connection.kindOf({
    kind,
    schema,
    make: (name, settings) =>
      Effect.map(
        ConnectionLifecycle.make({
          kind,
          name,
          plane: "internal",
          connect: "lazy",
          open: Effect.succeed(settings),
          check: () => Effect.void
        }),
        ({ connection }) => connection
      )
  })

const store = kindNamed("store", StoreSettings)
const queue = kindNamed(
  "queue",
  Schema.Struct({ host: Fields.Text, port: Fields.Port, token: Fields.Secret }).pipe(
    Schema.filter(({ host, port }) => (host === "local" && port !== 1234 ? "port 1234 belongs to local" : undefined))
  )
)

const reading = <A, E, R>(effect: Effect.Effect<A, E, R>, data: unknown) =>
  Effect.withConfigProvider(effect, ConfigProvider.fromJson(data))

const problemsOf = <A>(effect: Effect.Effect<A, ConfigError.ConfigError>, data: unknown) =>
  Effect.map(Effect.flip(reading(effect, data)), (error) =>
    Connections.problems(error).map(({ message, path }) => `${path}: ${message}`)
  )

const complete = {
  url: "https://host/path",
  password: "hush",
  maxConnections: "5",
  timeout: "5 seconds",
  plane: "external",
  connect: "background",
  flag: "off",
  tls: { ca: "PEM", port: "5432" },
  hosts: ["a", "b"],
  labels: { team: "blue" }
}

describe("Connection.kindOf", () => {
  it.effect("texts become what the schema wants", () =>
    Effect.gen(function* () {
      const read = yield* reading(store.settings, complete)
      assert.strictEqual(read.url.href, "https://host/path")
      assert.strictEqual(read.password === undefined ? "" : Redacted.value(read.password), "hush")
      assert.strictEqual(read.maxConnections, 5)
      assert.strictEqual(read.timeout === undefined ? 0 : Duration.toMillis(read.timeout), 5_000)
      assert.deepStrictEqual([read.plane, read.connect, read.flag], ["external", "background", false])
      assert.deepStrictEqual(read.tls, { ca: "PEM", port: 5432 })
      assert.deepStrictEqual(read.hosts, ["a", "b"])
      assert.deepStrictEqual(read.labels, { team: "blue" })
    })
  )

  it.effect("what may be absent is absent, and a default is taken", () =>
    Effect.gen(function* () {
      const read = yield* reading(store.settings, { url: "https://host" })
      assert.deepStrictEqual(Object.keys(read).sort(), ["flag", "url"])
      assert.isTrue(read.flag)
    })
  )

  it.effect("an empty password is no password", () =>
    Effect.gen(function* () {
      const read = yield* reading(store.settings, { url: "https://host", password: "" })
      assert.isUndefined(read.password)
    })
  )

  it.effect("from the environment, with a list as one text", () =>
    Effect.gen(function* () {
      const read = yield* Effect.withConfigProvider(
        store.settings,
        ConfigProvider.fromMap(
          new Map([
            ["URL", "https://host"],
            ["MAX_CONNECTIONS", "7"],
            ["HOSTS", "a,b"],
            ["TLS_CA", "PEM"]
          ]),
          { pathDelim: "_" }
        ).pipe(ConfigProvider.constantCase)
      )
      assert.strictEqual(read.maxConnections, 7)
      assert.deepStrictEqual(read.hosts, ["a", "b"])
      assert.deepStrictEqual(read.tls, { ca: "PEM" })
    })
  )

  it.effect("every missing and every wrong field is reported at once, with its path and without its value", () =>
    Effect.gen(function* () {
      const wrong = {
        url: "hush-1",
        password: "hush-2",
        maxConnections: "hush-3",
        timeout: "hush-4",
        plane: "hush-5",
        connect: "hush-6",
        flag: "hush-7",
        tls: { port: "70000" },
        hosts: ["a", ""]
      }
      const problems = yield* problemsOf(store.settings, wrong)
      assert.deepStrictEqual(problems, [
        "url: expected an absolute URL",
        "maxConnections: expected a whole number from 1 up",
        'timeout: expected a duration such as "5 seconds"',
        'plane: expected "internal" or "external"',
        'connect: expected "eager" or "lazy" or "background"',
        "flag: expected a boolean",
        "tls.ca: missing, expected a string",
        "tls.port: expected a port (1 to 65535)",
        "hosts.[1]: expected a non empty string"
      ])
      assert.deepStrictEqual(yield* problemsOf(queue.settings, {}), [
        "host: missing, expected text that is not empty",
        "port: missing, expected a port (1 to 65535)",
        "token: missing, expected text that is not empty"
      ])
      assert.notInclude(problems.join(), "hush")
    })
  )

  it.effect("below a section and in core's Settings: the place of each problem is told", () =>
    Effect.gen(function* () {
      const settings = yield* Settings.make({
        dotenv: false,
        directory: ".",
        files: [],
        env: { CONNECTIONS_STORE_MAX_CONNECTIONS: "many", CONNECTIONS_STORE_PASSWORD: "hush" },
        defaults: { connections: { store: { url: "nowhere" } } }
      })
      const error = yield* Effect.flip(Effect.withConfigProvider(Connections.validate([store]), settings.provider))
      const found = Connections.problems(error)
      assert.deepStrictEqual(
        found.map(({ path }) => path),
        ["connections.store.url", "connections.store.maxConnections"]
      )
      assert.include(found[1]?.message ?? "", "variable CONNECTIONS_STORE_MAX_CONNECTIONS")
      assert.notInclude(JSON.stringify(found), "hush")
      assert.notInclude(yield* settings.explain, "hush")
    }).pipe(Effect.provide(FileSystem.layerNoop({ exists: () => Effect.succeed(true) })))
  )
})

describe("Connections: configuration", () => {
  const url = "https://host"
  const token = "hush"

  it.effect("settings are found by name, below the kind, and by the kind that they say", () =>
    Effect.gen(function* () {
      const connections = yield* Connections.make([store, queue]).pipe((made) =>
        reading(made, {
          connections: {
            store: { url: "https://default", billing: { url: "https://billing" }, mixed: { url: "https://below" } },
            orders: { kind: "store", url: "https://orders" },
            plain: { url: "https://plain" },
            mixed: { kind: "queue", host: "h", port: 1, token },
            jobs: { kind: "queue", host: "h", port: 1, token }
          }
        })
      )
      const hostOf = (name?: string) =>
        Effect.scoped(
          Effect.flatMap(connections.get(store, name), (connection) =>
            connection.use((settings) => Effect.succeed(settings.url.host))
          )
        )
      assert.strictEqual(yield* hostOf(), "default")
      assert.strictEqual(yield* hostOf("orders"), "orders")
      assert.strictEqual(yield* hostOf("plain"), "plain")
      assert.strictEqual(yield* hostOf("billing"), "billing")
      assert.strictEqual(yield* hostOf("store.billing"), "billing")
      assert.strictEqual(yield* hostOf("mixed"), "below")
      const other = yield* Effect.either(hostOf("jobs"))
      assert.isTrue(Either.isLeft(other))
      if (Either.isLeft(other) && ConfigError.isConfigError(other.left)) {
        assert.deepStrictEqual(
          Connections.problems(other.left).map(({ path }) => path),
          ["connections.jobs.kind"]
        )
      } else assert.fail("another error")
      const host = yield* Effect.flatMap(connections.get(queue, "jobs"), (connection) =>
        connection.use((settings) => Effect.succeed(settings.host))
      ).pipe(Effect.scoped)
      assert.strictEqual(host, "h")
    }).pipe(Effect.scoped)
  )

  it.effect("two kinds may each have a connection of one name", () =>
    Effect.gen(function* () {
      const connections = yield* reading(Connections.make([store, queue]), {
        connections: { store: { orders: { url } }, queue: { orders: { host: "h", port: 1, token } } }
      })
      yield* connections.get(store, "orders")
      yield* connections.get(queue, "orders")
      assert.deepStrictEqual(
        (yield* connections.list).map(({ kind, name }) => `${kind}.${name}`),
        ["store.orders", "queue.orders"]
      )
    }).pipe(Effect.scoped)
  )

  it.effect("declared tells what the configuration has", () =>
    Effect.gen(function* () {
      const found = yield* reading(Connections.declared([store, queue]), {
        connections: {
          store: { url, tls: { ca: "PEM" }, billing: { url } },
          orders: { kind: "store", url },
          queue: { jobs: { host: "h", port: 1, token }, mails: { host: "h", port: 1, token } }
        }
      })
      assert.sameDeepMembers(
        [...found],
        [
          { kind: "store", name: "store" },
          { kind: "store", name: "billing" },
          { kind: "store", name: "orders" },
          { kind: "queue", name: "jobs" },
          { kind: "queue", name: "mails" }
        ]
      )
      assert.deepStrictEqual(yield* reading(Connections.declared([store]), {}), [])
    })
  )

  const broken = {
    connections: {
      store: { url: "hush", maxConnections: 0 },
      orders: { kind: "store" },
      jobs: { kind: "queue", host: "local", port: 1 },
      nameless: { url },
      strange: { kind: "tape" }
    }
  }

  it.effect("validate reports every missing and wrong field of every connection at once", () =>
    Effect.gen(function* () {
      assert.sameMembers(
        [...(yield* problemsOf(Connections.validate([store, queue]), broken))],
        [
          "connections.store.url: expected an absolute URL",
          "connections.store.maxConnections: expected a whole number from 1 up",
          "connections.orders.url: missing, expected an absolute URL",
          "connections.jobs.token: missing, expected text that is not empty",
          "connections.nameless.kind: missing, expected one of store, queue",
          "connections.strange.kind: expected one of store, queue"
        ]
      )
    })
  )

  it.effect("validate reports names that are no settings, with what was perhaps meant", () =>
    Effect.gen(function* () {
      const given = {
        connections: {
          store: {
            ...complete,
            timout: "hush",
            tls: { ca: "PEM", prot: "hush" },
            billing: { url, urk: "hush" },
            none: {}
          },
          orders: { kind: "store", url, maxConections: "hush", xyzzy: { deep: "hush", deeper: "hush" } },
          jobs: { kind: "queue", host: "h", port: 1, token, Token: token, hosts: ["hush"] }
        }
      }
      assert.sameMembers(
        [...(yield* problemsOf(Connections.validate([store, queue]), given))],
        [
          "connections.store.timout: there is no such setting (did you mean timeout?)",
          "connections.store.tls.prot: there is no such setting (did you mean port?)",
          "connections.store.billing.urk: there is no such setting (did you mean url?)",
          "connections.orders.maxConections: there is no such setting (did you mean maxConnections?)",
          "connections.orders.xyzzy: there is no such setting",
          "connections.jobs.hosts: there is no such setting (did you mean host?)"
        ]
      )
      // What takes any name takes any name, and of a kind without a schema nothing is known.
      const bare = Connection.kind({ ...store, kind: "bare", schema: undefined })
      const right = { connections: { store: complete, bare: { url, anything: "x" } } }
      yield* reading(Connections.validate([store, bare]), right)
    })
  )

  it.effect("validate finds names that are no settings in the environment, which takes names apart", () =>
    Effect.gen(function* () {
      const provider = (texts: Readonly<Record<string, string>>) =>
        ConfigProvider.fromMap(new Map(Object.entries(texts)), { pathDelim: "_" }).pipe(ConfigProvider.constantCase)
      const right = {
        CONNECTIONS_ORDERS_KIND: "store",
        CONNECTIONS_ORDERS_URL: url,
        CONNECTIONS_ORDERS_MAX_CONNECTIONS: "3",
        CONNECTIONS_ORDERS_TLS_CA: "PEM",
        CONNECTIONS_ORDERS_LABELS_TEAM: "blue",
        CONNECTIONS_ORDERS_HOSTS: "a,b"
      }
      yield* Effect.withConfigProvider(Connections.validate([store, queue]), provider(right))
      const error = yield* Effect.flip(
        Effect.withConfigProvider(
          Connections.validate([store, queue]),
          provider({ ...right, CONNECTIONS_ORDERS_MAX_CONECTIONS: "hush", CONNECTIONS_ORDERS_TIMOUT: "hush" })
        )
      )
      const problems = Connections.problems(error)
      assert.deepStrictEqual(
        problems.map(({ message }) => message),
        ["there is no such setting (did you mean maxConnections?)", "there is no such setting (did you mean timeout?)"]
      )
      assert.notInclude(JSON.stringify(problems), "hush")
    })
  )

  it.effect("validate of those that are wanted looks at no other", () =>
    Effect.gen(function* () {
      const wanted = [
        { kind: "store", name: "orders" },
        { kind: "queue", name: "mails" }
      ]
      assert.deepStrictEqual(yield* problemsOf(Connections.validate([store, queue], wanted), broken), [
        "connections.orders.url: missing, expected an absolute URL",
        "connections.mails.host: missing, expected text that is not empty",
        "connections.mails.port: missing, expected a port (1 to 65535)",
        "connections.mails.token: missing, expected text that is not empty"
      ])
    })
  )

  it.effect("a check of several fields has the path of the settings", () =>
    Effect.gen(function* () {
      const problems = yield* problemsOf(Connections.validate([queue]), {
        connections: { queue: { host: "local", port: 1, token } }
      })
      assert.strictEqual(problems.length, 1)
      assert.isTrue(problems[0]?.startsWith("connections.queue:"), problems[0])
    })
  )

  it.effect("layerConfig does not start with what is wrong, and starts with what is right", () =>
    Effect.gen(function* () {
      const started = (data: unknown) =>
        Effect.exit(
          Connections.Connections.pipe(
            Effect.provide(
              Connections.layerConfig([store, queue]).pipe(
                Layer.provide(Layer.setConfigProvider(ConfigProvider.fromJson(data)))
              )
            )
          )
        )
      assert.isTrue(Exit.isFailure(yield* started(broken)))
      assert.isTrue(Exit.isSuccess(yield* started({ connections: { store: { url } } })))
    })
  )

  it("jsonSchema describes the whole configuration", () => {
    const schema = Connections.jsonSchema([
      store,
      queue,
      Connection.kind({ ...queue, kind: "bare", schema: undefined })
    ])
    const text = JSON.stringify(schema)
    for (const part of ["maxConnections", '"const":"queue"', '"const":"bare"', "token", "draft-07"]) {
      assert.include(text, part)
    }
    assert.notInclude(text, "Redacted(")
  })
})
