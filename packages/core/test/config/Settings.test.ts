// biome-ignore-all lint/suspicious/noTemplateCurlyInString: references in YAML look like this
import { FileSystem } from "@effect/platform"
import { NodeFileSystem } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import {
  Config,
  ConfigError,
  ConfigProvider,
  Duration,
  Effect,
  Either,
  FastCheck,
  HashMap,
  Layer,
  LogLevel,
  Option,
  Redacted,
  Schema
} from "effect"
import * as Settings from "../../src/config/Settings.ts"

const folder = (files: Readonly<Record<string, string>>) =>
  Effect.gen(function* () {
    const fs = yield* FileSystem.FileSystem
    const directory = yield* fs.makeTempDirectoryScoped()
    for (const [name, text] of Object.entries(files)) {
      yield* fs.writeFileString(`${directory}/${name}`, text)
    }
    return directory
  })

// Settings from files of a temporary folder, cut off from the environment of the process.
const settings = (files: Readonly<Record<string, string>>, options: Settings.Options = {}) =>
  Effect.flatMap(folder(files), (directory) =>
    Effect.map(
      Settings.make({
        directory,
        files: Object.keys(files).filter((name) => /^[a-z]+\.ya?ml$/.test(name)),
        env: {},
        dotenv: false,
        ...options
      }),
      (made) => ({ ...made, directory })
    )
  )

const problemsOf = (error: Settings.SettingsError, directory = ""): ReadonlyArray<string> =>
  error.problems.map((problem) => Settings.formatProblem(problem).split(`${directory}/`).join(""))

const test = (
  name: string,
  effect: () => Effect.Effect<void, unknown, FileSystem.FileSystem | import("effect").Scope.Scope>
) => it.scoped(name, () => Effect.provide(effect(), NodeFileSystem.layer))

const redisYaml = [
  "redis:",
  '  host: "${REDIS_HOST:localhost}"',
  '  port: "${REDIS_PORT:6379}"',
  '  password: "${REDIS_PASSWORD}"'
].join("\n")

const Redis = Schema.Struct({
  host: Schema.String,
  port: Schema.Int.pipe(Schema.between(1, 65535)),
  password: Schema.optional(Schema.Redacted(Schema.String)),
  tls: Schema.optionalWith(Schema.Boolean, { default: () => false })
})

const redisConfig = Config.all({
  host: Config.string("host"),
  port: Config.integer("port"),
  password: Config.option(Config.redacted("password"))
}).pipe(Config.nested("redis"))

describe("Settings", () => {
  describe("sources", () => {
    test("defaults < files in order < profile files < .env < environment < overrides", () =>
      Effect.gen(function* () {
        const levels = ["a", "b", "c", "d", "e", "f", "g"]
        const table = (from: number, value: number) =>
          `all:\n${levels
            .slice(from)
            .map((level) => `  ${level}: ${value}`)
            .join("\n")}\n`
        const directory = yield* folder({
          "one.yaml": table(1, 1),
          "two.yaml": table(2, 2),
          "one-prod.yaml": table(3, 3),
          ".env": levels
            .slice(4)
            .map((level) => `ALL_${level.toUpperCase()}=4`)
            .join("\n")
        })
        const made = yield* Settings.make({
          directory,
          files: ["one.yaml", "two.yaml"],
          profile: "prod",
          defaults: { all: Object.fromEntries(levels.map((level) => [level, 0])) },
          dotenv: `${directory}/.env`,
          env: { ALL_F: "5", ALL_G: "5" },
          overrides: { "all.g": 6 }
        })
        const all = yield* made.section("all", Schema.Record({ key: Schema.String, value: Schema.Int }))
        assert.deepStrictEqual(all, { a: 0, b: 1, c: 2, d: 3, e: 4, f: 5, g: 6 })
        const config = yield* made.load(Config.hashMap(Config.integer(), "all"))
        assert.deepStrictEqual(Object.fromEntries(config), all)
      }))

    test("lists are replaced whole by every higher source", () =>
      Effect.gen(function* () {
        const files = { "app.yaml": "hosts: [x, y, z]", "app-prod.yaml": "hosts: [p]" }
        const hosts = Config.array(Config.string(), "hosts")
        const Hosts = Schema.Struct({ hosts: Schema.Array(Schema.String) })
        for (const [options, expected] of [
          [{}, ["x", "y", "z"]],
          [{ profile: "prod" }, ["p"]],
          [{ env: { HOSTS: "e1, e2" } }, ["e1", "e2"]],
          [{ env: { HOSTS_0: "n1" } }, ["n1"]],
          [{ env: { HOSTS: "e1" }, overrides: { hosts: ["o1", "o2"] } }, ["o1", "o2"]],
          [{ env: { HOSTS: "" } }, []],
          [{ overrides: { hosts: [] } }, []]
        ] as const) {
          const made = yield* settings(files, options)
          assert.deepStrictEqual(yield* made.load(hosts), [...expected])
          assert.deepStrictEqual((yield* made.section("", Hosts)).hosts, [...expected])
        }
      }))

    test("the usual files are read where they exist, in .yaml or .yml", () =>
      Effect.gen(function* () {
        const directory = yield* folder({
          "application-db.yaml": redisYaml,
          "application-cache.yml": "cache: {ttl: 60}",
          "application-db-prod.yaml": "redis: {host: prod}"
        })
        const made = yield* Settings.make({ directory, env: { APP_PROFILE: "prod" }, dotenv: false })
        assert.strictEqual((yield* made.load(redisConfig)).host, "prod")
        assert.strictEqual(yield* made.load(Config.integer("ttl").pipe(Config.nested("cache"))), 60)
      }))

    test("a folder, a file or a .env that was named and does not exist is a problem; the defaults need not exist", () =>
      Effect.gen(function* () {
        yield* Settings.make({ env: {}, dotenv: false })
        const directory = yield* folder({})
        const error = yield* Effect.flip(
          Settings.make({ directory, files: ["no.yaml"], env: {}, dotenv: `${directory}/no.env` })
        )
        assert.deepStrictEqual(problemsOf(error, directory), [
          "no.env:1:1: expected a file that exists",
          "no.yaml:1:1: expected a file that exists"
        ])
        const none = yield* Effect.flip(Settings.make({ directory: `${directory}/none`, env: {}, dotenv: false }))
        assert.match(none.message, /none:1:1: expected a folder that exists/)
      }))

    test("every problem of every file comes at once", () =>
      Effect.gen(function* () {
        const directory = yield* folder({ "a.yaml": "a: ${", "b.yaml": "b: [1\n", ".env": "OK=1\nnot an assignment\n" })
        const error = yield* Effect.flip(
          Settings.make({ directory, files: ["a.yaml", "b.yaml"], env: {}, dotenv: `${directory}/.env` })
        )
        const problems = problemsOf(error, directory)
        assert.strictEqual(problems.length, 3)
        assert.match(problems[0] ?? "", /^\.env:2:1: expected NAME=value/)
        assert.match(problems[1] ?? "", /^a\.yaml:1:4: a: expected the name/)
        assert.match(problems[2] ?? "", /^b\.yaml:\d+:\d+: /)
        assert.match(error.message, /^3 problems in the settings:\n {2}- /)
      }))

    test("sets the one ConfigProvider of what the layer is provided to", () =>
      Effect.gen(function* () {
        const directory = yield* folder({ "app.yaml": redisYaml })
        const layer = Settings.layer({ directory, files: ["app.yaml"], env: { REDIS_PORT: "7000" }, dotenv: false })
        const read = yield* Effect.all([
          redisConfig,
          Settings.section("redis", Redis),
          Settings.load(redisConfig)
        ]).pipe(Effect.provide(layer))
        assert.deepStrictEqual(
          read.map((one) => [one.host, one.port]),
          [
            ["localhost", 7000],
            ["localhost", 7000],
            ["localhost", 7000]
          ]
        )
      }))

    test("the environment of the process is read unless another is given", () =>
      Effect.gen(function* () {
        const made = yield* Settings.make({ dotenv: false })
        assert.strictEqual(yield* made.load(Config.string("PATH")), process.env.PATH)
      }))
  })

  describe("substitution and types", () => {
    test('port: "${REDIS_PORT:6379}" is a number for a number setting', () =>
      Effect.gen(function* () {
        const made = yield* settings({ "app.yaml": redisYaml })
        assert.deepStrictEqual(yield* made.load(redisConfig), {
          host: "localhost",
          port: 6379,
          password: Option.none()
        })
        assert.deepStrictEqual(yield* made.section("redis", Redis), { host: "localhost", port: 6379, tls: false })
      }))

    test("quoted scalars are text for text settings, and decode for numbers and booleans", () =>
      Effect.gen(function* () {
        const made = yield* settings({
          "app.yaml": 'a: "5"\nb: "true"\nc: "no"\nversion: 1.10\nzip: 01234\nbig: 12345678901234567890\nd: 7\ne: "on"'
        })
        const All = Schema.Struct({
          a: Schema.Number,
          b: Schema.Boolean,
          c: Schema.Boolean,
          version: Schema.String,
          zip: Schema.String,
          big: Schema.String,
          d: Schema.NumberFromString,
          e: Schema.Boolean
        })
        assert.deepStrictEqual(yield* made.section("", All), {
          a: 5,
          b: true,
          c: false,
          version: "1.10",
          zip: "01234",
          big: "12345678901234567890",
          d: 7,
          e: true
        })
        assert.strictEqual(yield* made.load(Config.string("version")), "1.10")
        assert.strictEqual(yield* made.load(Config.string("a")), "5")
        const union = Schema.Struct({ a: Schema.Union(Schema.Number, Schema.String) })
        assert.deepStrictEqual(yield* made.section("", union), { a: "5" })
      }))

    test("an unset variable without default is absent, and an error only where the setting is required", () =>
      Effect.gen(function* () {
        const made = yield* settings({ "app.yaml": redisYaml })
        const password = Config.redacted("password").pipe(Config.nested("redis"))
        assert.deepStrictEqual(yield* made.load(Config.option(password)), Option.none())
        const error = yield* Effect.flip(made.load(password))
        assert.deepStrictEqual(problemsOf(error, made.directory), [
          "app.yaml:4:13: redis.password: missing, expected text; the variable REDIS_PASSWORD is not set and has no default; set redis.password in a file of settings or the variable REDIS_PASSWORD"
        ])
      }))

    test("an unset reference in a higher file does not hide the value of a lower one, a null does", () =>
      Effect.gen(function* () {
        const made = yield* settings(
          { "app.yaml": "a: low\nb: low", "app-x.yaml": 'a: "${UNSET}"\nb: null' },
          { profile: "x" }
        )
        assert.strictEqual(yield* made.load(Config.string("a")), "low")
        assert.deepStrictEqual(yield* made.load(Config.option(Config.string("b"))), Option.none())
      }))

    test("an empty password is no password", () =>
      Effect.gen(function* () {
        for (const env of [{ REDIS_PASSWORD: "" }, {}] as ReadonlyArray<Record<string, string>>) {
          const made = yield* settings({ "app.yaml": redisYaml }, { env })
          assert.deepStrictEqual((yield* made.load(redisConfig)).password, Option.none())
          assert.isUndefined((yield* made.section("redis", Redis)).password)
        }
        const made = yield* settings({ "app.yaml": 'redis: {host: h, port: 1, password: ""}' })
        assert.deepStrictEqual((yield* made.load(redisConfig)).password, Option.none())
      }))

    test("what Kubernetes injects as REDIS_PORT is understood", () =>
      Effect.gen(function* () {
        const made = yield* settings({ "app.yaml": redisYaml }, { env: { REDIS_PORT: "tcp://10.0.0.1:7001" } })
        assert.strictEqual((yield* made.load(redisConfig)).port, 7001)
        const other = yield* settings(
          { "app.yaml": 'cache: {port: "${REDIS_PORT:1}"}' },
          { env: { REDIS_PORT: "tcp://[fd00::1]:7002" } }
        )
        assert.strictEqual(yield* other.load(Config.integer("port").pipe(Config.nested("cache"))), 7002)
      }))

    test("a length of time as people write it", () =>
      Effect.gen(function* () {
        const made = yield* settings({ "app.yaml": "a: 30 seconds\nb: 500ms\nc: 1.5m\nd: 250\ne: soon" })
        const T = Settings.Duration
        const { a, b, c, d } = yield* made.section("", Schema.Struct({ a: T, b: T, c: T, d: T }))
        assert.deepStrictEqual([a, b, c, d].map(Duration.toMillis), [30_000, 500, 90_000, 250])
        const error = yield* Effect.flip(made.section("", Schema.Struct({ e: T })))
        assert.match(error.message, /app\.yaml:5:4: e: expected a length of time, .*, found text of 4 characters/)
      }))
  })

  describe("names", () => {
    test("kebab, camel, snake and constant spellings are the same name, in files and variables", () =>
      Effect.gen(function* () {
        for (const [file, env] of [
          ["llm: {api-key: k}", {}],
          ["llm: {apiKey: k}", {}],
          ["llm: {api_key: k}", {}],
          ["LLM: {API_KEY: k}", {}],
          ["{}", { LLM_API_KEY: "k" }],
          ["{}", { LLM_APIKEY: "k" }],
          ["{}", { llm_api_key: "k" }]
        ] as ReadonlyArray<readonly [string, Record<string, string>]>) {
          const made = yield* settings({ "app.yaml": file }, { env })
          for (const name of ["apiKey", "api-key", "api_key", "API_KEY"]) {
            assert.strictEqual(yield* made.load(Config.string(name).pipe(Config.nested("llm"))), "k", `${file} ${name}`)
          }
          assert.deepStrictEqual(yield* made.section("llm", Schema.Struct({ apiKey: Schema.String })), { apiKey: "k" })
          assert.strictEqual(yield* made.load(Config.string("LLM_API_KEY")), "k", file)
        }
      }))

    test("a variable is bound only where its parts end where the names end", () =>
      Effect.gen(function* () {
        const made = yield* settings({ "app.yaml": "{}" }, { env: { REDISH_OST: "x", RED_ISHOST: "x" } })
        assert.isTrue(
          Either.isLeft(yield* Effect.either(made.load(Config.string("host").pipe(Config.nested("redis")))))
        )
      }))

    test("a higher file may spell a name otherwise", () =>
      Effect.gen(function* () {
        const made = yield* settings(
          { "app.yaml": "llm: {max-tokens: 1, other: 2}", "app-x.yaml": "llm: {maxTokens: 3}" },
          { profile: "x" }
        )
        const Llm = Schema.Struct({ maxTokens: Schema.Int, other: Schema.Int })
        assert.deepStrictEqual(yield* made.section("llm", Llm), { maxTokens: 3, other: 2 })
      }))

    test("keys of a record that differ only in spelling stay apart within a file", () =>
      Effect.gen(function* () {
        const made = yield* settings({ "app.yaml": "prices: {gpt-4: 1, gpt4: 2}" })
        const prices = yield* made.section("prices", Schema.Record({ key: Schema.String, value: Schema.Number }))
        assert.deepStrictEqual(prices, { "gpt-4": 1, gpt4: 2 })
      }))

    test("a setting of one word is not read from what every shell sets", () =>
      Effect.gen(function* () {
        const made = yield* settings(
          { "app.yaml": "user: alice\npath: /data" },
          { env: { USER: "root", PATH: "/bin" } }
        )
        assert.strictEqual(yield* made.load(Config.string("user")), "alice")
        assert.strictEqual(yield* made.load(Config.string("path")), "/data")
        assert.strictEqual(yield* made.load(Config.string("PATH")), "/bin")
      }))

    test("tables of records and lists come from variables too", () =>
      Effect.gen(function* () {
        const made = yield* settings(
          { "app.yaml": "providers: {openai: {model: a}}\nservers: [{host: x}]" },
          {
            env: {
              PROVIDERS_OPENAI_MODEL: "b",
              PROVIDERS_GROQ_MODEL: "c",
              SERVERS_0_HOST: "s0",
              SERVERS_1_HOST: "s1"
            }
          }
        )
        const Provider = Schema.Struct({ model: Schema.String })
        assert.deepStrictEqual(
          yield* made.section("providers", Schema.Record({ key: Schema.String, value: Provider })),
          {
            openai: { model: "b" },
            groq: { model: "c" }
          }
        )
        const Servers = Schema.Struct({ servers: Schema.Array(Schema.Struct({ host: Schema.String })) })
        assert.deepStrictEqual(yield* made.section("", Servers), { servers: [{ host: "s0" }, { host: "s1" }] })
        assert.deepStrictEqual(yield* made.load(Config.array(Config.string("host"), "servers")), ["s0", "s1"])
      }))
  })

  describe("secrets in files", () => {
    test("VAR_FILE gives the value of VAR, for paths and for references", () =>
      Effect.gen(function* () {
        const directory = yield* folder({ secret: "hunter2\n", "app.yaml": `${redisYaml}\nother: "\${API_KEY}"` })
        const made = yield* Settings.make({
          directory,
          files: ["app.yaml"],
          dotenv: false,
          env: { REDIS_PASSWORD_FILE: `${directory}/secret`, API_KEY_FILE: `${directory}/secret`, API_KEY: "" }
        })
        const { password } = yield* made.load(redisConfig)
        assert.deepStrictEqual(Option.map(password, Redacted.value), Option.some("hunter2"))
        assert.strictEqual(yield* made.load(Config.string("other")), "hunter2")
        const section = yield* made.section("redis", Redis)
        assert.strictEqual(section.password === undefined ? "" : Redacted.value(section.password), "hunter2")
        assert.include(yield* made.explain, "redis.password = <redacted>")
      }))

    test("a VAR_FILE that cannot be read is a problem, not an absent value", () =>
      Effect.gen(function* () {
        const env = { REDIS_PASSWORD_FILE: "/nowhere/secret" }
        const made = yield* settings({ "app.yaml": "redis: {host: h, port: 1, password: low}" }, { env })
        const expected = [
          "variable REDIS_PASSWORD_FILE: redis.password: expected the name of a readable file of at most 1048576 bytes"
        ]
        assert.deepStrictEqual(problemsOf(yield* Effect.flip(made.load(redisConfig))), expected)
        assert.deepStrictEqual(problemsOf(yield* Effect.flip(made.section("redis", Redis))), expected)
        const error = yield* Effect.flip(settings({ "app.yaml": redisYaml }, { env }))
        assert.deepStrictEqual(error._tag === "SettingsError" ? problemsOf(error) : [], expected)
      }))

    test("VAR wins over VAR_FILE, so that LOG and LOG_FILE can both be settings", () =>
      Effect.gen(function* () {
        const made = yield* settings({ "app.yaml": "{}" }, { env: { LOG_LEVEL: "debug", LOG_FILE: "/nowhere" } })
        assert.strictEqual(yield* made.load(Config.string("file").pipe(Config.nested("log"))), "/nowhere")
        assert.deepStrictEqual(yield* made.load(Config.logLevel("LOG_LEVEL")), LogLevel.Debug)
      }))
  })

  describe(".env", () => {
    test("quotes, comments, export, several lines, escapes", () =>
      Effect.gen(function* () {
        const directory = yield* folder({
          ".env": [
            "# comment",
            "PLAIN=a b # comment",
            "HASH=a#b",
            "export EXPORTED=x",
            "  SPACED  =  y  ",
            "SINGLE='a # ${X} \\n'",
            'DOUBLE="a\\n\\"b\\" # c" # comment',
            'LINES="one',
            'two"',
            "EMPTY=",
            'BACK=`it\'s "here"`',
            "REF=${PLAIN}"
          ].join("\n")
        })
        const made = yield* Settings.make({ files: [], env: {}, dotenv: `${directory}/.env` })
        const read = (name: string) => made.load(Config.string(name))
        assert.strictEqual(yield* read("PLAIN"), "a b")
        assert.strictEqual(yield* read("HASH"), "a#b")
        assert.strictEqual(yield* read("EXPORTED"), "x")
        assert.strictEqual(yield* read("SPACED"), "y")
        assert.strictEqual(yield* read("SINGLE"), "a # ${X} \\n")
        assert.strictEqual(yield* read("DOUBLE"), 'a\n"b" # c')
        assert.strictEqual(yield* read("LINES"), "one\ntwo")
        assert.strictEqual(yield* read("EMPTY"), "")
        assert.strictEqual(yield* read("BACK"), 'it\'s "here"')
        assert.strictEqual(yield* read("REF"), "${PLAIN}")
        assert.deepStrictEqual(
          yield* made.origin("LINES"),
          Option.some({
            type: "environment" as const,
            variable: "LINES",
            file: `${directory}/.env`,
            line: 8
          })
        )
      }))

    test("a bad line is a problem with its place", () =>
      Effect.gen(function* () {
        const directory = yield* folder({ ".env": 'A=1\n-x\nB="open\nC=2\n' })
        const error = yield* Effect.flip(Settings.make({ files: [], env: {}, dotenv: `${directory}/.env` }))
        assert.deepStrictEqual(problemsOf(error, directory), [
          ".env:2:1: expected NAME=value, a comment or an empty line",
          '.env:3:3: expected a closing "'
        ])
      }))
  })

  describe("problems", () => {
    const Llm = Schema.Struct({
      provider: Schema.Literal("openai", "groq", "ollama"),
      model: Schema.NonEmptyString,
      temperature: Schema.Number.pipe(Schema.between(0, 2)),
      apiKey: Schema.Redacted(Schema.String.pipe(Schema.minLength(20))),
      timeout: Settings.Duration,
      stop: Schema.Array(Schema.String),
      targets: Schema.Array(Schema.Struct({ name: Schema.String, weight: Schema.Int })),
      nested: Schema.Struct({ deep: Schema.Struct({ flag: Schema.Boolean }) })
    })

    test("a section without a value is an empty one: variables fill it, and all that it lacks is said", () =>
      Effect.gen(function* () {
        const files = { "app.yaml": "llm:\nmail:\n" }
        const Mail = Schema.Struct({ host: Schema.String, port: Schema.Number })
        const filled = yield* settings(files, { env: { MAIL_HOST: "smtp", MAIL_PORT: "25" } })
        assert.deepStrictEqual(yield* filled.section("mail", Mail), { host: "smtp", port: 25 })
        const inside = yield* filled.section(
          "",
          Schema.Struct({ mail: Schema.optional(Mail), llm: Schema.optional(Mail) })
        )
        assert.deepStrictEqual(inside, { mail: { host: "smtp", port: 25 } })
        const optional = Schema.Struct({ host: Schema.optional(Schema.String) })
        const empty = yield* settings(files)
        assert.deepStrictEqual(yield* empty.section("llm", optional), {})
        const error = yield* Effect.flip(empty.section("llm", Mail))
        assert.deepStrictEqual(
          error.problems.map(({ path, reason }) => [path, reason]),
          [
            ["llm.host", "missing"],
            ["llm.port", "missing"]
          ]
        )
        const cleared = yield* settings(files, {
          env: { MAIL_HOST: "smtp", MAIL_PORT: "25" },
          overrides: { mail: null }
        })
        assert.strictEqual((yield* Effect.flip(cleared.section("mail", Mail))).problems[0]?.path, "mail")
      }))

    test("a section says everything that is wrong at once: place, path, what was expected, never the value", () =>
      Effect.gen(function* () {
        const made = yield* settings(
          {
            "app.yaml": [
              "llm:",
              "  provider: opnai-secretish",
              '  model: ""',
              "  temperature: 3",
              "  api-key: hunter2",
              "  timeout: soonish",
              "  stop: {a: 1}",
              "  targets:",
              "    - name: one",
              "      weight: heavy",
              "    - weight: 2"
            ].join("\n")
          },
          { env: { LLM_NESTED_DEEP_FLAG: "perhaps" } }
        )
        const error = yield* Effect.flip(made.section("llm", Llm))
        const problems = problemsOf(error, made.directory)
        assert.deepStrictEqual(problems, [
          'app.yaml:2:13: llm.provider: expected "openai" or "groq" or "ollama", found text of 15 characters',
          "app.yaml:3:10: llm.model: expected a non empty string, found empty text",
          "app.yaml:4:16: llm.temperature: expected a number between 0 and 2, found a number",
          "app.yaml:5:12: llm.apiKey: expected a string at least 20 character(s) long, found text of 7 characters",
          "app.yaml:6:12: llm.timeout: expected a length of time, for example 30 seconds, 500ms or a number of milliseconds, found text of 7 characters; not a length of time",
          "app.yaml:7:9: llm.stop: expected a list, found a table",
          "app.yaml:10:15: llm.targets[0].weight: expected an integer, found text of 5 characters",
          "llm.targets[1].name: missing, expected a string; set llm.targets[1].name in a file of settings or the variable LLM_TARGETS_1_NAME",
          "variable LLM_NESTED_DEEP_FLAG: llm.nested.deep.flag: expected a boolean, found text of 7 characters"
        ])
        for (const value of ["opnai", "hunter2", "soonish", "heavy", "perhaps"]) {
          assert.notInclude(error.message, value)
        }
      }))

    test("a section that is not there at all lists every required field", () =>
      Effect.gen(function* () {
        const made = yield* settings({ "app.yaml": "{}" })
        const error = yield* Effect.flip(made.section("redis", Redis))
        assert.deepStrictEqual(
          error.problems.map((problem) => [problem.reason, problem.path]),
          [
            ["missing", "redis.host"],
            ["missing", "redis.port"]
          ]
        )
      }))

    test("a Config says everything that is wrong at once, in its ConfigError too", () =>
      Effect.gen(function* () {
        const made = yield* settings(
          { "app.yaml": "redis:\n  port: hunter2\n  db: 1.5\n  hosts: [1, x, 3, y]" },
          { env: { REDIS_TIMEOUT: "hunter2" } }
        )
        const config = Config.all({
          host: Config.string("host"),
          port: Config.integer("port"),
          db: Config.integer("db"),
          hosts: Config.array(Config.integer(), "hosts"),
          timeout: Config.duration("timeout")
        }).pipe(Config.nested("redis"))
        const error = yield* Effect.flip(made.load(config))
        assert.deepStrictEqual(problemsOf(error, made.directory), [
          "redis.host: missing, expected text; set redis.host in a file of settings or the variable REDIS_HOST",
          "app.yaml:2:9: redis.port: expected an integer, found text of 7 characters",
          "app.yaml:3:7: redis.db: expected an integer, found a number",
          "app.yaml:4:14: redis.hosts[1]: expected an integer, found text of 1 character",
          "app.yaml:4:20: redis.hosts[3]: expected an integer, found text of 1 character",
          'variable REDIS_TIMEOUT: redis.timeout: Expected a duration but received "<redacted>"'
        ])
        const effect = yield* Effect.flip(Effect.withConfigProvider(config, made.provider))
        assert.isTrue(ConfigError.isConfigError(effect))
        for (const part of ["app.yaml:2:9", "REDIS_TIMEOUT", "redis.host"]) {
          assert.include(String(effect), part)
        }
        assert.notInclude(String(effect), "hunter2")
      }))

    test("a higher source that is set but wrong never falls through to a lower one or a default", () =>
      Effect.gen(function* () {
        const port = Config.integer("port").pipe(Config.withDefault(1), Config.nested("redis"))
        for (const options of [
          { env: { REDIS_PORT: "wrong" } },
          { env: { REDIS_PORT: "" } },
          { overrides: { redis: { port: "wrong" } } },
          { profile: "bad" },
          { overrides: { redis: { port: [1] } } }
        ] satisfies ReadonlyArray<Settings.Options>) {
          const files = { "app.yaml": "redis: {host: h, port: 6379}", "app-bad.yaml": "redis: {port: wrong}" }
          const made = yield* settings(files, options)
          const error = yield* Effect.flip(made.load(port))
          assert.deepStrictEqual(
            error.problems.map((problem) => [problem.reason, problem.path]),
            [["invalid", "redis.port"]]
          )
          const section = yield* Effect.flip(made.section("redis", Redis))
          assert.deepStrictEqual(
            section.problems.map((problem) => [problem.reason, problem.path]),
            [["invalid", "redis.port"]]
          )
        }
      }))

    test("several sections: all problems of all of them", () =>
      Effect.gen(function* () {
        const directory = yield* folder({ "app.yaml": "a: {n: x}\nb: {n: 2}\n" })
        const N = Schema.Struct({ n: Schema.Int })
        const layer = Settings.layer({ directory, files: ["app.yaml"], env: {}, dotenv: false })
        const error = yield* Settings.all({
          a: Settings.section("a", N),
          b: Settings.section("b", N),
          c: Settings.section("c", N),
          d: Settings.load(Config.string("d"))
        }).pipe(Effect.provide(layer), Effect.flip)
        assert.deepStrictEqual(
          error.problems.map((problem) => problem.path),
          ["a.n", "c.n", "d"]
        )
        const good = yield* Settings.all({ b: Settings.section("b", N) }).pipe(Effect.provide(layer))
        assert.deepStrictEqual(good, { b: { n: 2 } })
      }))

    test("unions say what was expected; a table is told apart by its literals", () =>
      Effect.gen(function* () {
        const Store = Schema.Union(
          Schema.Struct({ kind: Schema.Literal("memory") }),
          Schema.Struct({ kind: Schema.Literal("redis"), port: Schema.Int }),
          Schema.Struct({ kind: Schema.Literal("file"), path: Schema.String })
        )
        const All = Schema.Struct({ one: Store, two: Store, size: Schema.Union(Schema.Literal("auto"), Schema.Number) })
        const made = yield* settings({
          "app.yaml": 'one: {kind: redis, port: "6379"}\ntwo: {kind: file, path: 5}\nsize: "12"'
        })
        assert.deepStrictEqual(yield* made.section("", All), {
          one: { kind: "redis", port: 6379 },
          two: { kind: "file", path: "5" },
          size: 12
        })
        const bad = yield* settings({ "app.yaml": "one: {kind: redis, port: x}\ntwo: {kind: no}\nsize: big" })
        const error = yield* Effect.flip(bad.section("", All))
        assert.deepStrictEqual(
          error.problems.map((problem) => problem.path),
          ["one.port", "two.kind", "size"]
        )
        assert.match(error.message, /size: expected "auto" or a number, found text of 3 characters/)
      }))

    test("a check of the program's own is reported with its words, without the value", () =>
      Effect.gen(function* () {
        const made = yield* settings({ "app.yaml": "range: {from: 5, to: 3}\nname: hunter2" })
        const Range = Schema.Struct({ from: Schema.Int, to: Schema.Int }).pipe(
          Schema.filter(({ from, to }) => from <= to || "from must not be after to")
        )
        const Name = Schema.String.pipe(
          Schema.filter((name) => name.startsWith("x") || `${name} does not start with x`)
        )
        const error = yield* Effect.flip(made.section("", Schema.Struct({ range: Range, name: Name })))
        assert.match(error.message, /app\.yaml:1:8: range: .*from must not be after to/)
        assert.match(error.message, /app\.yaml:2:7: name: .*<redacted> does not start with x/)
        const config = Config.string("name").pipe(
          Config.validate({ message: "must start with x", validation: (name) => name.startsWith("x") })
        )
        assert.match((yield* Effect.flip(made.load(config))).message, /app\.yaml:2:7: name: .*must start with x/)
      }))

    test("whatever a wrong value is, no problem shows it", () =>
      Effect.gen(function* () {
        const values = FastCheck.sample(FastCheck.stringMatching(/^[A-Za-z]{8,16}[!-~]{0,8}$/), 50)
        for (const value of values) {
          const made = yield* settings(
            { "app.yaml": "{}" },
            { env: { X_N: value, X_D: value, X_L: value, X_U: value } }
          )
          const config = Config.all([
            Config.integer("n"),
            Config.duration("d"),
            Config.literal("a", "b")("l"),
            Config.port("u"),
            Schema.Config("d", Schema.NumberFromString)
          ]).pipe(Config.nested("x"))
          const section = Schema.Struct({
            n: Schema.Int,
            d: Settings.Duration,
            l: Schema.Literal("a", "b"),
            u: Schema.NumberFromString
          })
          const errors = [
            (yield* Effect.flip(made.load(config))).message,
            String(yield* Effect.flip(Effect.withConfigProvider(config, made.provider))),
            (yield* Effect.flip(made.section("x", section))).message
          ]
          for (const error of errors) {
            assert.notInclude(error, value)
          }
        }
      }))
  })

  describe("what Effect's own providers are blamed for", () => {
    test("orElse merges lists element by element: here a list is one value", () =>
      Effect.gen(function* () {
        const list = Config.array(Config.string(), "list")
        const chained = ConfigProvider.fromJson({ list: ["over"] }).pipe(
          ConfigProvider.orElse(() => ConfigProvider.fromJson({ list: ["x", "y"] }))
        )
        assert.deepStrictEqual(yield* Effect.withConfigProvider(list, chained), ["over", "y"])
        const made = yield* settings({ "app.yaml": "list: [x, y]" }, { overrides: { list: ["over"] } })
        assert.deepStrictEqual(yield* Effect.withConfigProvider(list, made.provider), ["over"])
      }))

    test("a list from the environment does not override a list from a file: here it does", () =>
      Effect.gen(function* () {
        const made = yield* settings({ "app.yaml": "list: [x, y]" }, { env: { LIST: "a" } })
        const list = Config.array(Config.string(), "list")
        assert.deepStrictEqual(yield* Effect.withConfigProvider(list, made.provider), ["a"])
      }))

    test('[] becomes ["<nil>"]: here it is an empty list', () =>
      Effect.gen(function* () {
        const made = yield* settings({ "app.yaml": "list: []" })
        const lists: ReadonlyArray<Config.Config<ReadonlyArray<unknown>>> = [
          Config.array(Config.string(), "list"),
          Config.array(Config.string("host"), "list"),
          Config.array(Config.integer(), "list").pipe(Config.withDefault([1]))
        ]
        for (const list of lists) {
          assert.deepStrictEqual(yield* Effect.withConfigProvider(list, made.provider), [])
        }
      }))

    test("an element of a list is split at its commas: here it stays whole", () =>
      Effect.gen(function* () {
        const made = yield* settings({ "app.yaml": 'list: ["a,b", c]' })
        const list = Config.array(Config.string(), "list")
        assert.deepStrictEqual(yield* Effect.withConfigProvider(list, made.provider), ["a,b", "c"])
      }))

    test("a null is no value", () =>
      Effect.gen(function* () {
        const made = yield* settings({ "app.yaml": "a: null\nb: ~\nc:" })
        for (const name of ["a", "b", "c"]) {
          assert.deepStrictEqual(yield* made.load(Config.option(Config.string(name))), Option.none())
          const error = yield* Effect.flip(made.load(Config.string(name)))
          assert.match(error.message, /app\.yaml:\d:\d: [abc]: missing, expected text; it is null/)
        }
        const Nullable = Schema.Struct({ a: Schema.NullOr(Schema.String), b: Schema.optional(Schema.String) })
        assert.deepStrictEqual(yield* made.section("", Nullable), { a: null })
      }))

    test("missing data names nothing: here the file's path and the variable", () =>
      Effect.gen(function* () {
        const made = yield* settings({ "app.yaml": "{}" })
        const config = Config.string("apiKey").pipe(Config.nested("openAi"))
        const error = String(yield* Effect.flip(Effect.withConfigProvider(config, made.provider)))
        assert.include(error, "openAi.apiKey")
        assert.include(error, "OPEN_AI_API_KEY")
      }))

    test("the text of an error shows the secret unless it is wrapped: here never", () =>
      Effect.gen(function* () {
        const made = yield* settings({ "app.yaml": "pin: hunter2\nmode: hunter2" })
        const config = Config.all([Config.integer("pin"), Config.literal("on", "off")("mode")])
        const theirs = ConfigProvider.fromJson({ pin: "hunter2", mode: "hunter2" })
        assert.include(String(yield* Effect.flip(Effect.withConfigProvider(config, theirs))), "hunter2")
        assert.notInclude(String(yield* Effect.flip(Effect.withConfigProvider(config, made.provider))), "hunter2")
      }))

    test("lists of tables, tables of tables and combinators of providers work", () =>
      Effect.gen(function* () {
        const made = yield* settings({
          "app.yaml": "servers:\n  - {host: a, ports: [1, 2]}\n  - {host: b, ports: []}\ntable: {x: {n: 1}, y: {n: 2}}"
        })
        const servers = Config.array(
          Config.all({ host: Config.string("host"), ports: Config.array(Config.integer(), "ports") }),
          "servers"
        )
        assert.deepStrictEqual(yield* made.load(servers), [
          { host: "a", ports: [1, 2] },
          { host: "b", ports: [] }
        ])
        const table = Config.hashMap(Config.integer("n"), "table")
        assert.deepStrictEqual(Object.fromEntries(HashMap.toEntries(yield* made.load(table))), { x: 1, y: 2 })
        const nested = made.provider.pipe(ConfigProvider.nested("table"))
        assert.strictEqual(yield* Effect.withConfigProvider(Config.integer("n").pipe(Config.nested("x")), nested), 1)
        const over = ConfigProvider.fromMap(new Map([["table.x.n", "9"]])).pipe(
          ConfigProvider.orElse(() => made.provider)
        )
        assert.deepStrictEqual(
          yield* Effect.withConfigProvider(
            Config.all([Config.integer("x.n"), Config.integer("y.n")].map((one) => Config.nested(one, "table"))),
            over
          ),
          [9, 2]
        )
      }))
  })

  describe("explain", () => {
    test("prints where each value comes from, secrets redacted", () =>
      Effect.gen(function* () {
        const made = yield* settings(
          {
            "app.yaml": `${redisYaml}\n  db: 2\n  tags: [a, b]\nurl: postgres://u:hunter2@db/app\nlicence: hunter2\nnone: []`
          },
          {
            env: { REDIS_HOST: "h", REDIS_PASSWORD: "hunter2", EXTRA: "x" },
            defaults: { timeout: "30 seconds" },
            overrides: { redis: { db: 3 } }
          }
        )
        yield* made.load(Config.redacted("licence"))
        yield* made.load(Config.option(Config.string("extra")))
        const text = (yield* made.explain).split(`${made.directory}/`).join("")
        assert.deepStrictEqual(text.split("\n"), [
          'timeout = "30 seconds"  (default)',
          'redis.host = "h"  (variable REDIS_HOST, instead of app.yaml:2:9)',
          'redis.port = "6379"  (app.yaml:3:9)',
          "redis.password = <redacted>  (variable REDIS_PASSWORD, instead of app.yaml:4:13)",
          "redis.db = 3  (override, instead of app.yaml:5:7)",
          'redis.tags[0] = "a"  (app.yaml:6:10)',
          'redis.tags[1] = "b"  (app.yaml:6:13)',
          'url = "postgres://u:<redacted>@db/app"  (app.yaml:7:6)',
          "licence = <redacted>  (app.yaml:8:10)",
          "none = []  (app.yaml:9:7)",
          'extra = "x"  (variable EXTRA)'
        ])
        assert.deepStrictEqual(yield* made.origin("redis.db"), Option.some({ type: "override" as const }))
      }))
  })

  it.effect("the layer fails with one message where the files are wrong", () =>
    Effect.gen(function* () {
      const directory = yield* folder({ "app.yaml": "a: ${" })
      const exit = yield* Effect.flip(
        Effect.scoped(Layer.build(Settings.layer({ directory, files: ["app.yaml"], env: {}, dotenv: false })))
      )
      assert.strictEqual(exit._tag, "SettingsError")
    }).pipe(Effect.scoped, Effect.provide(NodeFileSystem.layer))
  )
})
