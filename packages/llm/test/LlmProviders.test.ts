/** The registry: what configuration says of a name, who shares what is made of it, and what is said where it is wrong. */
import { FetchHttpClient, FileSystem, type HttpClient } from "@effect/platform"
import { NodeFileSystem } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { ChatMessage, Correlation, Deadline, Embeddings, Health, Settings } from "@underlay/core"
import * as Recording from "@underlay/core/testing/Recording"
import { Llm, LlmError, LlmProviders, OpenAiCompatible } from "@underlay/llm"
import {
  Config,
  ConfigProvider,
  Context,
  Deferred,
  type Duration,
  Effect,
  Either,
  Exit,
  Fiber,
  Inspectable,
  Layer,
  Option,
  type Scope,
  Stream,
  TestClock,
  Tracer
} from "effect"
import { answered, json, serve, sse, streamed } from "./server.ts"

const ask: Llm.LlmRequest = { messages: [ChatMessage.user("hi")] }

type Needs = FileSystem.FileSystem | HttpClient.HttpClient | Scope.Scope

const test = (name: string, effect: () => Effect.Effect<void, unknown, Needs>) =>
  it.scoped(name, () => Effect.provide(effect(), [NodeFileSystem.layer, FetchHttpClient.layer]))

const live = (name: string, effect: () => Effect.Effect<void, unknown, Needs>) =>
  it.scopedLive(name, () => Effect.provide(effect(), [NodeFileSystem.layer, FetchHttpClient.layer]))

/** A registry over `application-llm.yaml` with this text, cut off from the environment of the process. */
const over = <K extends LlmProviders.AnyKind<HttpClient.HttpClient | Scope.Scope> = never>(
  yaml: string,
  options: LlmProviders.Options<K> & Pick<Settings.Options, "env"> = {}
) =>
  Effect.gen(function* () {
    const fs = yield* FileSystem.FileSystem
    const directory = yield* fs.makeTempDirectoryScoped()
    yield* fs.writeFileString(`${directory}/application-llm.yaml`, yaml)
    const settings = yield* Settings.make({ directory, env: options.env ?? {}, dotenv: false, profile: [] })
    return yield* Effect.withConfigProvider(LlmProviders.make(options), settings.provider)
  })

/** The problems of an error, without the folder that the file is in. */
const problemsOf = (error: LlmProviders.LlmProvidersError) =>
  error.problems.map((problem) => problem.replace(/\S*\/application-/, "application-"))

/** A kind that counts what is made and released of it, and is made as the test says. */
const counting = (make: Effect.Effect<void, LlmError.LlmError> = Effect.void) => {
  const seen = {
    made: 0,
    released: 0,
    correlation: Option.none<string>(),
    deadline: Option.none<Duration.Duration>(),
    span: Option.none<Tracer.AnySpan>()
  }
  const kind = LlmProviders.kind({
    kind: "counting",
    settings: Config.all({ model: Config.withDefault(Config.string("model"), "m") }),
    make: ({ model }, name) =>
      Effect.gen(function* () {
        seen.made++
        yield* Effect.addFinalizer(() => Effect.sync(() => seen.released++))
        seen.correlation = yield* Correlation.Current
        seen.deadline = yield* Deadline.remaining
        seen.span = yield* Effect.serviceOption(Tracer.ParentSpan)
        yield* make
        return Llm.make({
          provider: name,
          model,
          generate: () => Effect.die("not asked"),
          stream: () => Stream.die("not asked")
        })
      })
  })
  return { kind, seen }
}

const failure = (retryable: boolean) =>
  new LlmError.LlmError({
    reason: retryable ? "Network" : "InvalidRequest",
    method: "layer",
    provider: "counting",
    issue: "it is not the day for it",
    retryable,
    midStream: false
  })

const docs = 'baseUrl: "http://127.0.0.1:1", model: e, dimensions: 2'

const one = "llm: { providers: { a: { kind: counting } } }"

describe("every kind is made of its settings and asks its server", () => {
  const settings: Readonly<Record<string, (url: string) => string>> = {
    azure: (url) => `endpoint: ${url}, apiKey: sk-secret, model: m`,
    ollama: (url) => `host: ${url}, apiKey: sk-secret, model: m`,
    replicate: (url) => `baseUrl: ${url}, apiKey: sk-secret, model: o/m`
  }
  const paths: Readonly<Record<string, string>> = {
    openai: "/chat/completions",
    azure: "/openai/v1/responses",
    anthropic: "/messages",
    google: "/models/m:generateContent",
    ollama: "/api/chat",
    replicate: "/models/o/m/predictions"
  }
  const expected = [
    ...["openai", "azure", "anthropic", "groq", "google", "huggingface", "ollama", "replicate", "compatible"],
    ...Object.keys(OpenAiCompatible.presets)
  ]

  it("there are all of them", () => {
    assert.deepStrictEqual(
      LlmProviders.kinds.map(({ kind }) => kind),
      expected
    )
  })

  for (const kind of expected) {
    live(kind, () =>
      Effect.gen(function* () {
        const server = yield* serve(({ response }) => json(response, 400, { error: { message: "no" } }))
        const own = settings[kind] ?? ((url: string) => `baseUrl: ${url}, apiKey: sk-secret, model: m`)
        const providers = yield* over(`llm: { providers: { main: { kind: ${kind}, ${own(server.url)} } } }`)
        const llm = yield* providers.get("main")
        const error = yield* Effect.flip(llm.generate(ask))
        assert.deepStrictEqual([error.reason, error.status], ["InvalidRequest", 400])
        assert.strictEqual(error.provider, kind === "compatible" ? "main" : kind)
        assert.strictEqual(server.seen[0]?.path, paths[kind] ?? "/chat/completions")
        assert.include(JSON.stringify(server.seen[0]?.headers), "sk-secret")
        assert.deepStrictEqual(yield* providers.list, [
          {
            name: "main",
            what: "provider",
            state: "in use",
            users: 1,
            kind,
            model: kind === "replicate" ? "o/m" : "m"
          }
        ])
      })
    )
  }

  const vectors = { data: [{ index: 0, embedding: [3, 4] }], model: "m", usage: { prompt_tokens: 1 } }
  const embedded: Readonly<Record<string, readonly [settings: (url: string) => string, path: string, body: unknown]>> =
    {
      openai: [(url) => `baseUrl: ${url}`, "/embeddings", vectors],
      azure: [(url) => `endpoint: ${url}`, "/openai/v1/embeddings", vectors],
      google: [(url) => `baseUrl: ${url}`, "/models/m:batchEmbedContents", { embeddings: [{ values: [3, 4] }] }],
      huggingface: [(url) => `baseUrl: ${url}, api: openai`, "/v1/embeddings", vectors],
      ollama: [(url) => `host: ${url}`, "/api/embed", { embeddings: [[3, 4]] }],
      compatible: [(url) => `baseUrl: ${url}`, "/embeddings", vectors]
    }
  it("there are all of those of embeddings", () => {
    assert.deepStrictEqual(
      LlmProviders.embeddingsKinds.map(({ kind }) => kind),
      [...Object.keys(embedded), "local"]
    )
  })
  for (const [kind, [own, path, body]] of Object.entries(embedded)) {
    live(`embeddings of ${kind}`, () =>
      Effect.gen(function* () {
        const server = yield* serve(({ response }) => json(response, 200, body))
        const table = `{ kind: ${kind}, apiKey: sk-secret, model: m, dimensions: 2, normalize: true, ${own(server.url)} }`
        const providers = yield* over(`llm: { embeddings: { docs: ${table} } }`)
        const embeddings = yield* providers.embeddings("docs")
        const [x, y] = yield* embeddings.embed("hi")
        assert.closeTo(x ?? 0, 0.6, 1e-9)
        assert.closeTo(y ?? 0, 0.8, 1e-9)
        assert.strictEqual(server.seen[0]?.path, path)
        assert.include(JSON.stringify(server.seen[0]?.headers), "sk-secret")
      })
    )
  }

  test("embeddings that need no server and no key", () =>
    Effect.gen(function* () {
      const providers = yield* over("llm: { embeddings: { local: { dimensions: 64 } } }")
      const embeddings = yield* providers.embeddings()
      assert.strictEqual((yield* embeddings.embed("hi")).length, 64)
    }))
})

describe("names", () => {
  const yaml = `
llm:
  default: main
  defaultEmbeddings: far
  providers:
    main: { kind: compatible, baseUrl: "http://127.0.0.1:1", model: of-main }
    my-fast: { kind: Compatible, baseUrl: "http://127.0.0.1:1", model: of-fast, provider: acme }
    lm-studio: { model: of-studio }
  embeddings:
    near: { kind: local }
    far: { kind: local, dimensions: 128 }
`
  test("one is given by its name, in any spelling; the default where none is said", () =>
    Effect.gen(function* () {
      const providers = yield* over(yaml)
      const modelOf = (name?: string) => Effect.map(providers.get(name), (llm) => `${llm.provider} ${llm.model}`)
      assert.strictEqual(yield* modelOf(), "main of-main")
      assert.strictEqual(yield* modelOf("my-fast"), "acme of-fast")
      assert.strictEqual(yield* providers.get("myFast"), yield* providers.get("my-fast"))
      assert.strictEqual((yield* providers.embeddings()).dimensions, 128)
      assert.strictEqual((yield* providers.embeddings("near")).dimensions, 1024)
    }))

  test("the kind may be left out where the name is one", () =>
    Effect.gen(function* () {
      const llm = yield* Effect.flatMap(over(yaml), (providers) => providers.get("lm-studio"))
      assert.deepStrictEqual([llm.provider, llm.model], ["lmstudio", "of-studio"])
    }))

  test("variables set them too", () =>
    Effect.gen(function* () {
      const providers = yield* over(yaml, {
        env: {
          LLM_DEFAULT: "my-fast",
          LLM_PROVIDERS_MY_FAST_MODEL: "from-outside",
          LLM_PROVIDERS_OPENAI_API_KEY: "sk-1",
          LLM_PROVIDERS_OPENAI_MODEL: "gpt"
        }
      })
      assert.strictEqual((yield* providers.get()).model, "from-outside")
      assert.strictEqual((yield* providers.get("openai")).model, "gpt")
      yield* providers.check
      assert.deepStrictEqual(yield* providers.unused, [
        "llm.providers.lm-studio",
        "llm.providers.main",
        "llm.embeddings.far",
        "llm.embeddings.near"
      ])
    }))

  test("one that only variables tell of is found, and what only begins their names is none", () =>
    Effect.gen(function* () {
      const providers = yield* over("llm: {}", {
        env: { LLM_PROVIDERS_MY_FAST_KIND: "vllm", LLM_PROVIDERS_MY_FAST_MODEL: "m" }
      })
      assert.strictEqual((yield* providers.get("my-fast")).model, "m")
      yield* providers.check
      assert.deepStrictEqual(yield* providers.unused, [])
      assert.deepStrictEqual(yield* providers.health, [])
    }))

  test("a default need not be said where there is one only", () =>
    Effect.gen(function* () {
      const providers = yield* over("llm: { providers: { only: { kind: vllm, model: m } } }")
      assert.strictEqual((yield* providers.get()).model, "m")
    }))

  test("any provider of configuration will do", () =>
    Effect.gen(function* () {
      const map = new Map([
        ["llm.providers.a.kind", "vllm"],
        ["llm.providers.a.model", "m"],
        ["llm.providers.b.kind", "anthropic"],
        ["llm.providers.b.model", "m"]
      ])
      const providers = yield* Effect.withConfigProvider(LlmProviders.make(), ConfigProvider.fromMap(map))
      assert.strictEqual((yield* providers.get("a")).model, "m")
      const error = yield* Effect.flip(providers.get("b"))
      assert.deepStrictEqual(problemsOf(error), ["llm.providers.b.apiKey: missing"])
    }))

  test("nothing said of a name, or of a default, says which there are", () =>
    Effect.gen(function* () {
      const providers = yield* over("llm: { providers: { a: { kind: vllm, model: m }, b: { kind: vllm, model: m } } }")
      const unknown = yield* Effect.flip(providers.get("c"))
      assert.deepStrictEqual(
        [unknown.reason, unknown.message, unknown.isRetryable],
        ["UnknownName", "llm.providers.c: language models of this name are not configured; there are: a, b", false]
      )
      const none = yield* Effect.flip(providers.get())
      assert.deepStrictEqual(
        [none.reason, none.message],
        ["NoDefault", "llm.default: say which of the language models is the default; there are: a, b"]
      )
      const noEmbeddings = yield* Effect.flip(providers.embeddings())
      assert.strictEqual(noEmbeddings.reason, "NoDefault")
      for (const odd of ["", "a b", "../x", "__proto__", "x".repeat(200)]) {
        assert.strictEqual((yield* Effect.flip(providers.get(odd))).reason, "UnknownName", odd)
      }
    }))

  test("unused are those that nobody has asked for", () =>
    Effect.gen(function* () {
      const providers = yield* over(yaml)
      yield* providers.get("MY_FAST")
      yield* providers.embeddings("near")
      assert.deepStrictEqual(yield* providers.unused, [
        "llm.providers.lm-studio",
        "llm.providers.main",
        "llm.embeddings.far"
      ])
    }))
})

describe("settings that are wrong", () => {
  const yaml = `
llm:
  default: nobody
  providers:
    main:
      kind: openai
      apiKey: \${NO_SUCH_VARIABLE}
      model: ""
      timeout: soon
      structuredOutput: sk-should-not-show
      tiemout: sk-should-not-show
    other:
      kind: sk-should-not-show
    nameless:
      model: m
    fine:
      kind: vllm
      model: m
  embeddings:
    docs:
      kind: openai
      apiKey: sk-should-not-show
      dimensions: sk-should-not-show
`
  const ofMain = [
    /^application-llm\.yaml:7:\d+: llm\.providers\.main\.apiKey: .*NO_SUCH_VARIABLE/,
    /^application-llm\.yaml:8:\d+: llm\.providers\.main\.model: /,
    /^application-llm\.yaml:9:\d+: llm\.providers\.main\.timeout: /,
    /^application-llm\.yaml:10:\d+: llm\.providers\.main\.structuredOutput: /,
    /^application-llm\.yaml:11:\d+: llm\.providers\.main\.tiemout: .*there is no such setting; those of the kind openai are kind, apiKey, model, /
  ]
  const each = (found: ReadonlyArray<string>, wanted: ReadonlyArray<RegExp>) => {
    assert.strictEqual(found.length, wanted.length, found.join("\n"))
    for (const [index, pattern] of wanted.entries()) assert.match(found[index] ?? "", pattern)
  }
  const hides = (error: LlmProviders.LlmProvidersError) => {
    const shown = `${error.message} ${JSON.stringify(error)} ${String(error)} ${Inspectable.format(error)}`
    assert.notInclude(shown, "should-not-show")
  }

  test("are told all at once, each with its path and place, and no value is shown", () =>
    Effect.gen(function* () {
      const providers = yield* over(yaml)
      const error = yield* Effect.flip(providers.get("main"))
      assert.deepStrictEqual([error.reason, error.path], ["InvalidSettings", "llm.providers.main"])
      each(problemsOf(error), ofMain)
      hides(error)
    }))

  test("a kind that there is not names those that there are", () =>
    Effect.gen(function* () {
      const providers = yield* over(yaml)
      for (const [name, place] of [
        [
          "other",
          /^application-llm\.yaml:13:\d+: llm\.providers\.other\.kind: .*there is no such kind: kinds are openai, /
        ],
        ["nameless", /llm\.providers\.nameless\.kind: .*missing, and the name is none of a kind: kinds are openai, /]
      ] as const) {
        const error = yield* Effect.flip(providers.get(name))
        assert.strictEqual(error.reason, "UnknownKind")
        each(problemsOf(error), [place])
        hides(error)
      }
    }))

  test("check tells those of everything that is configured, and makes nothing", () =>
    Effect.gen(function* () {
      const providers = yield* over(yaml)
      const error = yield* Effect.flip(providers.check)
      each(problemsOf(error), [
        /^application-llm\.yaml:3:\d+: llm\.default: .*there are no language models of this name; there are: fine, main, nameless, other/,
        ...ofMain,
        /llm\.providers\.nameless\.kind/,
        /llm\.providers\.other\.kind/,
        /llm\.embeddings\.docs\.model/,
        /llm\.embeddings\.docs\.dimensions/
      ])
      hides(error)
      assert.deepStrictEqual(yield* providers.list, [])
      assert.strictEqual((yield* providers.unused).length, 5)
    }))

  test("settings that are right one by one but not together are told by the provider's words for it", () =>
    Effect.gen(function* () {
      const providers = yield* over(`
llm: { providers: { groq: { apiKey: k, model: m, reasoningFormat: parsed, includeReasoning: true } } }`)
      const error = yield* Effect.flip(providers.get("groq"))
      assert.deepStrictEqual(
        [error.reason, error.message],
        ["InvalidOptions", "llm.providers.groq: give reasoningFormat or includeReasoning, not both of them"]
      )
      assert.instanceOf(error.cause, LlmError.LlmError)
    }))

  test("a default that cannot be read hides no other problem", () =>
    Effect.gen(function* () {
      const providers = yield* over(`
llm:
  default: { a: 1 }
  providers: { x: { kind: nope }, main: { kind: openai, model: m } }`)
      each(problemsOf(yield* Effect.flip(providers.check)), [
        /llm\.default: /,
        /llm\.providers\.main\.apiKey/,
        /llm\.providers\.x\.kind/
      ])
    }))

  test("a default that is a kind without settings is right, as it is when it is asked for", () =>
    Effect.gen(function* () {
      const providers = yield* over("llm: { defaultEmbeddings: local }")
      yield* providers.check
      assert.include((yield* providers.embeddings()).model, "local")
      const wrong = yield* over("llm: { default: ollama }")
      each(problemsOf(yield* Effect.flip(wrong.check)), [/llm\.default: .*there are no language models of this name/])
    }))

  test("a provider of configuration that shows values is not let to", () =>
    Effect.gen(function* () {
      const entries = ["attempts", "timeout", "captureContent", "structuredOutput"].map(
        (name) => [`llm.providers.openai.${name}`, "sk-should-not-show\nand more"] as const
      )
      const map = new Map([...entries, ["llm.providers.openai.model", "m"], ["llm.providers.openai.apiKey", "k"]])
      const providers = yield* Effect.withConfigProvider(LlmProviders.make(), ConfigProvider.fromMap(map))
      for (const error of [yield* Effect.flip(providers.check), yield* Effect.flip(providers.get("openai"))]) {
        assert.strictEqual(error.problems.length, 4)
        assert.include(error.message, "llm.providers.openai.attempts: Expected an integer value")
        hides(error)
      }
    }))

  test("a name that cannot be printed is in no message", () =>
    Effect.gen(function* () {
      const providers = yield* over(one)
      for (const odd of ["a\nERROR forged", "a\u001b[31m", "a\u2028b", "a\u202eb"]) {
        const error = yield* Effect.flip(providers.get(odd))
        assert.strictEqual(error.reason, "UnknownName")
        assert.strictEqual(error.path, "llm.providers")
      }
      assert.strictEqual((yield* Effect.flip(providers.get("a b"))).path, "llm.providers.a b")
    }))

  test("no table where one should be", () =>
    Effect.gen(function* () {
      const providers = yield* over("llm: { providers: 5 }")
      assert.strictEqual((yield* Effect.flip(providers.get("a"))).reason, "InvalidSettings")
      assert.strictEqual((yield* Effect.flip(providers.check)).reason, "InvalidSettings")
      assert.strictEqual((yield* Effect.flip(providers.health)).reason, "InvalidSettings")
    }))
})

describe("what is made", () => {
  test("is made once, however many ask, and kept until nobody has held it for the idle time", () =>
    Effect.gen(function* () {
      const gate = yield* Deferred.make<void>()
      const { kind, seen } = counting(Deferred.await(gate))
      const providers = yield* over(one, { kinds: [kind], idleTimeToLive: "1 minute" })
      const held = yield* Deferred.make<void>()
      const using = yield* Effect.fork(
        Effect.all(
          Array.from({ length: 50 }, () => Effect.scoped(Effect.zipLeft(providers.get("a"), Deferred.await(held)))),
          { concurrency: "unbounded" }
        )
      )
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(
        (yield* providers.list).map(({ kind, state }) => [kind, state]),
        [[undefined, "building"]]
      )
      yield* Deferred.succeed(gate, undefined)
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(
        (yield* providers.list).map(({ kind, state, users }) => [kind, state, users]),
        [["counting", "in use", 50]]
      )
      yield* Deferred.succeed(held, undefined)
      const services = yield* Fiber.join(using)
      assert.strictEqual(new Set(services).size, 1)
      assert.strictEqual((yield* providers.list)[0]?.state, "idle")
      yield* TestClock.adjust("59 seconds")
      assert.strictEqual(yield* Effect.scoped(providers.get("a")), services[0])
      yield* TestClock.adjust("59 seconds")
      assert.deepStrictEqual([seen.made, seen.released], [1, 0])
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual([seen.made, seen.released], [1, 1])
      assert.deepStrictEqual(yield* providers.list, [])
      assert.notStrictEqual(yield* providers.get("a"), services[0])
    }))

  test("is forgotten if it cannot be made: those who waited get the error, the next one makes it anew", () =>
    Effect.gen(function* () {
      let fails = true
      const { kind, seen } = counting(
        Effect.delay(
          Effect.suspend(() => (fails ? Effect.fail(failure(true)) : Effect.void)),
          "1 second"
        )
      )
      const providers = yield* over(one, { kinds: [kind] })
      const asking = yield* Effect.fork(
        Effect.all([Effect.flip(providers.get("a")), Effect.flip(providers.get("a"))], { concurrency: 2 })
      )
      yield* TestClock.adjust("1 second")
      const errors = yield* Fiber.join(asking)
      assert.deepStrictEqual(
        errors.map(({ isRetryable, message, reason }) => [reason, message, isRetryable]),
        Array.from({ length: 2 }, () => ["Unavailable", "llm.providers.a: it is not the day for it", true])
      )
      assert.deepStrictEqual([seen.made, seen.released], [1, 1])
      fails = false
      const next = yield* Effect.fork(providers.get("a"))
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* Fiber.join(next)).provider, "a")
      assert.strictEqual(seen.made, 2)
    }))

  test("has nothing of its first caller: no deadline, no correlation, no span", () =>
    Effect.gen(function* () {
      const { kind, seen } = counting()
      const providers = yield* over(one, { kinds: [kind] })
      yield* providers
        .get("a")
        .pipe(
          Effect.provideService(Correlation.Current, Option.some("of the caller")),
          Deadline.within("1 second"),
          Effect.withSpan("caller"),
          Effect.withConfigProvider(ConfigProvider.fromMap(new Map([["llm.providers.a.kind", "vllm"]])))
        )
      assert.strictEqual(seen.made, 1)
      assert.isTrue(Option.isNone(seen.correlation))
      assert.isTrue(Option.isNone(seen.deadline))
      assert.isTrue(Option.isNone(seen.span))
    }))

  test("is left to those who still wait where the first caller is interrupted", () =>
    Effect.gen(function* () {
      const gate = yield* Deferred.make<void>()
      const { kind, seen } = counting(Deferred.await(gate))
      const providers = yield* over(one, { kinds: [kind] })
      const first = yield* Effect.fork(Effect.scoped(providers.get("a")))
      yield* TestClock.adjust("1 second")
      const second = yield* Effect.fork(providers.get("a"))
      yield* TestClock.adjust("1 second")
      yield* Fiber.interrupt(first)
      yield* Deferred.succeed(gate, undefined)
      assert.strictEqual((yield* Fiber.join(second)).provider, "a")
      assert.strictEqual(seen.made, 1)
    }))

  test("is made anew for the next caller once it is invalidated, and stays with those who hold it", () =>
    Effect.gen(function* () {
      const { kind, seen } = counting()
      const providers = yield* over(one, { kinds: [kind] })
      const before = yield* providers.get("a")
      yield* providers.invalidate("A")
      assert.notStrictEqual(yield* providers.get("a"), before)
      assert.deepStrictEqual([seen.made, seen.released], [2, 0])
    }))

  test("is released with the registry, which gives nothing any more", () =>
    Effect.gen(function* () {
      const { kind, seen } = counting()
      const providers = yield* Effect.scoped(
        Effect.tap(over(one, { kinds: [kind] }), (providers) => Effect.scoped(providers.get("a")))
      )
      assert.deepStrictEqual([seen.made, seen.released], [1, 1])
      const error = yield* Effect.flip(providers.get("a"))
      assert.deepStrictEqual([error.reason, error.message], ["Closed", "llm.providers.a: the registry is released"])
    }))

  test("leaves nothing behind: neither its health checks nor a line", () =>
    Effect.gen(function* () {
      const health = yield* Health.make
      const checks = Effect.map(health.report(), (report) => Object.keys(report.checks))
      const yaml = `llm: { providers: { vllm: { model: m } }, embeddings: { docs: { kind: compatible, ${docs} } } }`
      const providers = yield* over(yaml, { idleTimeToLive: 0 }).pipe(Effect.provideService(Health.Health, health))
      for (let time = 0; time < 100; time++) {
        yield* Effect.scoped(
          Effect.gen(function* () {
            yield* providers.get()
            yield* providers.embeddings()
            assert.deepStrictEqual((yield* checks).toSorted(), ["docs/e/embeddings", "vllm/m"])
          })
        )
        assert.deepStrictEqual(yield* providers.list, [])
      }
      assert.deepStrictEqual(yield* checks, [])
    }))

  test("is given without a span, a line or a metric of the registry's own", () =>
    Effect.gen(function* () {
      const providers = yield* over(one, { kinds: [counting().kind] })
      yield* Recording.assertSilent(Effect.scoped(providers.get()))
      yield* Recording.assertSilent(Effect.scoped(providers.get("a")))
      yield* Recording.assertSilent(Effect.all([providers.list, providers.check, providers.unused]))
    }))

  class Tenant extends Context.Tag("test/Tenant")<Tenant, string>() {}

  test("of a kind that needs more than a client of HTTP, the registry asks for it", () =>
    Effect.gen(function* () {
      const kind = LlmProviders.kind({
        kind: "of-tenant",
        settings: Config.all({ model: Config.string("model") }),
        make: ({ model }) =>
          Effect.map(Tenant, (tenant) =>
            Llm.make({
              provider: tenant,
              model,
              generate: () => Effect.die("not asked"),
              stream: () => Stream.die("not asked")
            })
          )
      })
      const config = ConfigProvider.fromMap(new Map([["llm.providers.of-tenant.model", "m"]]))
      const Providers = LlmProviders.layer({ kinds: [kind] })
      const needed: Tenant extends Layer.Layer.Context<typeof Providers> ? true : false = true
      const plain = LlmProviders.layer()
      const notNeeded: Tenant extends Layer.Layer.Context<typeof plain> ? true : false = false
      assert.deepStrictEqual([needed, notNeeded], [true, false])
      const llm = yield* Effect.scoped(LlmProviders.get()).pipe(
        Effect.provide(Providers),
        Effect.provideService(Tenant, "acme"),
        Effect.withConfigProvider(config)
      )
      assert.deepStrictEqual([llm.provider, llm.model], ["acme", "m"])
    }))

  test("of two kinds of one name is of the later", () =>
    Effect.gen(function* () {
      const { kind, seen } = counting()
      const providers = yield* over("llm: { providers: { openai: {} } }", { kinds: [{ ...kind, kind: "openai" }] })
      yield* providers.get("openai")
      assert.strictEqual(seen.made, 1)
    }))
})

describe("breakers", () => {
  live("there is one for each name and model, shared by all who hold the name", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ request, response }) =>
        request.body.includes('"bad"')
          ? json(response, 500, { error: { message: "down" } })
          : json(response, 200, answered("ok"))
      )
      const settings = `{ kind: compatible, baseUrl: "${server.url}", model: bad, attempts: 1 }`
      const providers = yield* over(`llm: { providers: { first: ${settings}, second: ${settings} } }`)
      const reasonOf = (name: string, model?: string) =>
        Effect.scoped(
          Effect.flatMap(providers.get(name), (llm) =>
            Effect.match(llm.generate({ ...ask, model }), { onFailure: ({ reason }) => reason, onSuccess: () => "ok" })
          )
        )
      const reasons: Array<string> = []
      for (let call = 0; call < 7; call++) reasons.push(yield* reasonOf("first"))
      assert.deepStrictEqual(reasons.slice(4), ["ServerError", "CircuitOpen", "CircuitOpen"])
      assert.strictEqual(server.seen.length, 5)
      assert.strictEqual(yield* reasonOf("first", "good"), "ok")
      assert.strictEqual(yield* reasonOf("second"), "ServerError")
    })
  )
})

describe("health", () => {
  const answering = (name: string, health: Llm.LlmService["health"]) =>
    LlmProviders.kind({
      kind: name,
      settings: Config.succeed({}),
      make: (_, provider) =>
        Effect.succeed(
          Llm.make({
            provider,
            model: "m",
            generate: () => Effect.die("not asked"),
            stream: () => Stream.die("not asked"),
            health
          })
        )
    })

  test("is that of everything configured, all at once; what hangs, dies or cannot be made is down", () =>
    Effect.gen(function* () {
      const providers = yield* over(
        `llm: { providers: { well: {}, failing: {}, hanging: {}, dying: {}, wrong: { kind: openai, apiKey: sk-secret } } }`,
        {
          kinds: [
            answering("well", Effect.delay(Effect.succeed({ status: "up", details: { model: "m" } }), "1 second")),
            answering("failing", Effect.fail(failure(false))),
            answering("hanging", Effect.uninterruptible(Effect.never)),
            answering("dying", Effect.die("a secret"))
          ],
          healthTimeout: "3 seconds"
        }
      )
      const asked = yield* Effect.fork(providers.health)
      yield* TestClock.adjust("3 seconds")
      const found = new Map((yield* Fiber.join(asked)).map((one) => [one.name, one]))
      const shown = (name: string) => {
        const one = found.get(name)
        return [one?.status, one?.latencyMs, one?.details?.["error"]]
      }
      assert.deepStrictEqual(shown("well"), ["up", 1000, undefined])
      assert.deepStrictEqual(shown("failing"), ["down", 0, failure(false).message])
      assert.deepStrictEqual(shown("hanging"), ["down", 3000, "no answer within 3s"])
      assert.deepStrictEqual(shown("dying"), ["down", 0, "the check died"])
      assert.deepStrictEqual([found.size, found.get("wrong")?.status], [5, "down"])
      assert.include(String(found.get("wrong")?.details?.["error"]), "llm.providers.wrong.model")
      assert.notInclude(JSON.stringify([...found.values()]), "secret")
    }))

  live("asks the provider for its models, which costs no tokens", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ response }) => json(response, 200, { data: [{ id: "m" }] }))
      const providers = yield* over(`llm: { providers: { vllm: { model: m, baseUrl: "${server.url}" } } }`)
      const [found] = yield* providers.health
      assert.deepStrictEqual([found?.name, found?.status], ["vllm", "up"])
      assert.deepStrictEqual(
        server.seen.map(({ method, path }) => `${method} ${path}`),
        ["GET /models"]
      )
    })
  )
})

describe("layers", () => {
  live("give the model of a name, the default one, and embeddings", () =>
    Effect.gen(function* () {
      const server = yield* serve(({ request, response }) =>
        request.body.includes('"stream":true')
          ? sse(response, streamed("stre", "amed"))
          : json(response, 200, answered("ok"))
      )
      const config = ConfigProvider.fromMap(
        new Map([
          ["llm.default", "main"],
          ["llm.providers.main.kind", "compatible"],
          ["llm.providers.main.baseUrl", server.url],
          ["llm.providers.main.model", "of-main"],
          ["llm.providers.quick.kind", "compatible"],
          ["llm.providers.quick.baseUrl", server.url],
          ["llm.providers.quick.model", "of-quick"],
          ["llm.embeddings.docs.kind", "local"]
        ])
      )
      const Providers = LlmProviders.layer().pipe(Layer.provide(Layer.setConfigProvider(config)))
      const model = Effect.map(Llm.Llm, (llm) => llm.model)
      const found = yield* Effect.gen(function* () {
        const answer = yield* Llm.generate(ask).pipe(LlmProviders.provide("quick"))
        const text = yield* Stream.unwrapScoped(Effect.map(LlmProviders.get("quick"), (llm) => llm.stream(ask))).pipe(
          Stream.runFold("", (all, part) => (part.type === "text-delta" ? all + part.text : all))
        )
        const dimensions = yield* Effect.map(Embeddings.Embeddings, (embeddings) => embeddings.dimensions).pipe(
          Effect.provide(LlmProviders.layerEmbeddings)
        )
        const named = yield* Effect.map(Embeddings.Embeddings, (embeddings) => embeddings.dimensions).pipe(
          Effect.provide(LlmProviders.layerEmbeddingsOf("docs"))
        )
        return {
          answer: answer.text,
          text,
          dimensions: [dimensions, named],
          models: [
            yield* Effect.provide(model, LlmProviders.layerDefault),
            yield* Effect.provide(model, LlmProviders.layerOf("quick"))
          ],
          users: (yield* Effect.flatMap(LlmProviders.LlmProviders, (providers) => providers.list)).map(
            ({ users }) => users
          )
        }
      }).pipe(Effect.provide(Providers))
      assert.deepStrictEqual(found, {
        answer: "ok",
        text: "streamed",
        dimensions: [1024, 1024],
        models: ["of-main", "of-quick"],
        users: [0, 0, 0]
      })
    })
  )

  test("fail with what is wrong", () =>
    Effect.gen(function* () {
      const Providers = LlmProviders.layer().pipe(
        Layer.provide(Layer.setConfigProvider(ConfigProvider.fromMap(new Map())))
      )
      const found = yield* Effect.either(Effect.provide(Llm.Llm, Layer.provide(LlmProviders.layerOf("x"), Providers)))
      assert.strictEqual(Either.isLeft(found) ? found.left.reason : "none", "UnknownName")
    }))

  test("what an effect acquires is not released with the provider it is given", () =>
    Effect.gen(function* () {
      let released = false
      const { kind } = counting()
      const providers = yield* over(one, { kinds: [kind] })
      yield* Effect.addFinalizer(() => Effect.sync(() => (released = true))).pipe(
        LlmProviders.provide("a"),
        Effect.provideService(LlmProviders.LlmProviders, providers)
      )
      assert.isFalse(released)
      const exit = yield* Effect.exit(
        Effect.provideService(LlmProviders.provide("b")(Effect.void), LlmProviders.LlmProviders, providers)
      )
      assert.isTrue(Exit.isFailure(exit))
    }))
})
