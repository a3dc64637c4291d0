/**
 * The language models and embeddings of an application by name: made on demand of what configuration
 * (`application-llm.yaml`) has for the name, shared while in use and released when idle. What a provider is, is a kind, of
 * an open registry.
 *
 * @since 0.1.0
 */
import type * as HttpClient from "@effect/platform/HttpClient"
import { type Connection, ConnectionError, kind as connectionKind } from "@underlay/core/connection/Connection"
import * as ConnectionLifecycle from "@underlay/core/connection/ConnectionLifecycle"
import * as Connections from "@underlay/core/connection/Connections"
import type * as Health from "@underlay/core/operations/Health"
import * as CoreEmbeddings from "@underlay/core/storage/Embeddings"
import * as Clock from "effect/Clock"
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Anthropic from "./Anthropic.ts"
import * as AzureOpenAi from "./AzureOpenAi.ts"
import * as AzureOpenAiEmbeddings from "./embeddings/AzureOpenAiEmbeddings.ts"
import * as GoogleEmbeddings from "./embeddings/GoogleEmbeddings.ts"
import * as HuggingFaceEmbeddings from "./embeddings/HuggingFaceEmbeddings.ts"
import * as OllamaEmbeddings from "./embeddings/OllamaEmbeddings.ts"
import * as OpenAiEmbeddings from "./embeddings/OpenAiEmbeddings.ts"
import * as Google from "./Google.ts"
import * as Groq from "./Groq.ts"
import * as HuggingFace from "./HuggingFace.ts"
import * as Settings from "./internal/providerSettings.ts"
import { Llm, type LlmService } from "./Llm.ts"
import * as LlmEmbeddings from "./LlmEmbeddings.ts"
import { LlmError } from "./LlmError.ts"
import * as LlmProvider from "./LlmProvider.ts"
import * as Ollama from "./Ollama.ts"
import * as OpenAi from "./OpenAi.ts"
import * as OpenAiCompatible from "./OpenAiCompatible.ts"
import * as EmbeddingFormats from "./protocol/EmbeddingFormats.ts"
import * as Replicate from "./Replicate.ts"

// ---------------------------------------------------------------------------------------------------------------------
// errors
// ---------------------------------------------------------------------------------------------------------------------

/**
 * Why there is no provider of a name.
 *
 * - `InvalidSettings`: configuration says what cannot be; `problems` has each with its place and what would be right.
 * - `UnknownKind`: configuration names a kind that the registry does not have.
 * - `UnknownName`: configuration has nothing of the name.
 * - `NoDefault`: no name was asked for, and configuration does not say which is the default.
 * - `InvalidOptions`: each setting is right, but they cannot work together.
 * - `Unavailable`: what the kind needs cannot be reached at present.
 * - `Closed`: the registry is released.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Reason = Schema.Literal(
  "InvalidSettings",
  "UnknownKind",
  "UnknownName",
  "NoDefault",
  "InvalidOptions",
  "Unavailable",
  "Closed"
)

/**
 * @since 0.1.0
 * @category models
 */
export type Reason = typeof Reason.Type

/**
 * A failure of the registry. `path` is where the provider stands in configuration (`llm.providers.main`). The message never
 * holds a value of the configuration.
 *
 * @since 0.1.0
 * @category errors
 */
export class LlmProvidersError extends Schema.TaggedError<LlmProvidersError>("@underlay/llm/LlmProvidersError")(
  "LlmProvidersError",
  {
    reason: Reason,
    path: Schema.String,
    description: Schema.String,
    problems: Schema.optionalWith(Schema.Array(Schema.String), { default: () => [] }),
    cause: Schema.optionalWith(Schema.Defect, { exact: true })
  }
) {
  override get message(): string {
    return [`${this.path}: ${this.description}`, ...this.problems.map((one) => `  - ${one}`)].join("\n")
  }

  /** Whether it may be otherwise later, though nobody changes anything. */
  get isRetryable(): boolean {
    return this.reason === "Unavailable"
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// kinds
// ---------------------------------------------------------------------------------------------------------------------

/**
 * A kind of providers: its name in configuration, the settings that it reads from the table of a provider's name, and how
 * the provider is made of them. What is acquired in the scope is released with the provider.
 *
 * @since 0.1.0
 * @category models
 */
export interface Kind<in out S, out R = HttpClient.HttpClient> {
  readonly kind: string
  /** By their own names: where they stand is put before them. */
  readonly settings: Config.Config<S>
  readonly make: (settings: S, name: string) => Effect.Effect<LlmService, LlmError, R | Scope.Scope>
}

/**
 * A kind of embeddings, as `Kind` is one of language models.
 *
 * @since 0.1.0
 * @category models
 */
export interface EmbeddingsKind<in out S, out R = HttpClient.HttpClient> {
  readonly kind: string
  /** By their own names: where they stand is put before them. */
  readonly settings: Config.Config<S>
  readonly make: (
    settings: S,
    name: string
  ) => Effect.Effect<EmbeddingsService, CoreEmbeddings.EmbeddingsError, R | Scope.Scope>
}

/**
 * What core's `Embeddings` is.
 *
 * @since 0.1.0
 * @category models
 */
export type EmbeddingsService = Context.Tag.Service<CoreEmbeddings.Embeddings>

interface Forgotten<out Service, out E, out R> {
  readonly kind: string
  readonly settings: Config.Config<unknown>
  readonly make: (settings: never, name: string) => Effect.Effect<Service, E, R>
}

/**
 * A kind with the type of its settings forgotten.
 *
 * @since 0.1.0
 * @category models
 */
export interface AnyKind<out R = unknown> extends Forgotten<LlmService, LlmError, R> {}

/**
 * A kind of embeddings with the type of its settings forgotten.
 *
 * @since 0.1.0
 * @category models
 */
export interface AnyEmbeddingsKind<out R = unknown>
  extends Forgotten<EmbeddingsService, CoreEmbeddings.EmbeddingsError, R> {}

/**
 * What the makers of kinds need, save the scope that each is given.
 *
 * @since 0.1.0
 * @category models
 */
export type Requirements<K> = K extends Forgotten<unknown, unknown, infer R> ? Exclude<R, Scope.Scope> : never

/**
 * Describes a kind of language models, so that `layer` can be given it.
 *
 * ```ts
 * const entra = LlmProviders.kind({
 *   kind: "azure-entra",
 *   settings: Config.all({ endpoint: Config.string("endpoint"), model: Config.string("model") }),
 *   make: (settings) => AzureOpenAi.make({ ...settings, token })
 * })
 * const Providers = LlmProviders.layer({ kinds: [entra] })
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const kind = <S, R = never>(options: Kind<S, R>): Kind<S, R> => options

/**
 * Describes a kind of embeddings, so that `layer` can be given it.
 *
 * @since 0.1.0
 * @category constructors
 */
export const embeddingsKind = <S, R = never>(options: EmbeddingsKind<S, R>): EmbeddingsKind<S, R> => options

const optional = <A>(config: Config.Config<A>): Config.Config<A | undefined> =>
  Config.map(Config.option(config), Option.getOrUndefined)

const text = (name: string): Config.Config<string | undefined> => optional(Config.nonEmptyString(name))

const address = {
  /** The name in errors and telemetry: by default that of the provider in configuration. */
  provider: text("provider"),
  telemetryName: text("telemetryName"),
  baseUrl: Config.nonEmptyString("baseUrl"),
  apiKey: optional(Config.redacted("apiKey")),
  model: Config.nonEmptyString("model")
}

const compatibleSettings = Config.map(
  Config.all([
    Config.all({
      ...address,
      maxTokensField: optional(Config.literal("max_completion_tokens", "max_tokens")("maxTokensField")),
      includeUsage: optional(Config.boolean("includeUsage")),
      reasoningField: optional(Config.literal("reasoning", "reasoning_content")("reasoningField")),
      modelsUrl: text("modelsUrl")
    }),
    LlmProvider.callSettings
  ]),
  ([read, calls]) => ({ ...calls, ...read })
)

const compatible = kind({
  kind: "compatible",
  settings: compatibleSettings,
  make: (settings: Config.Config.Success<typeof compatibleSettings>, name) =>
    OpenAiCompatible.make({ ...settings, provider: settings.provider ?? name })
})

const preset = (name: OpenAiCompatible.PresetName) =>
  kind({
    kind: name,
    settings: OpenAiCompatible.presetSettings(name),
    make: (settings) => OpenAiCompatible.makePreset(name, settings)
  })

const compatibleEmbeddingsSettings = Config.map(
  Config.all([Config.all(address), LlmEmbeddings.settings]),
  ([read, settings]) => ({ ...settings, ...read })
)

const compatibleEmbeddings = embeddingsKind({
  kind: "compatible",
  settings: compatibleEmbeddingsSettings,
  make: (settings: Config.Config.Success<typeof compatibleEmbeddingsSettings>, name) => {
    const { apiKey, provider, ...spec } = settings
    return LlmEmbeddings.make({
      ...spec,
      provider: provider ?? name,
      endpoint: "/embeddings",
      protocol: EmbeddingFormats.openAi(),
      // Few of these servers shorten: the dimensions are what vectors are checked by.
      shorten: spec.shorten ?? false,
      headers: apiKey === undefined ? {} : { authorization: Redacted.make(`Bearer ${Redacted.value(apiKey)}`) },
      limits: OpenAiEmbeddings.limits
    })
  }
})

const localEmbeddings = embeddingsKind({
  kind: "local",
  settings: Config.all({ dimensions: optional(Config.integer("dimensions")) }),
  make: (settings) => CoreEmbeddings.makeLocal(settings)
})

/**
 * The kinds of language models that every registry has: the providers of this package, `compatible` for any server that
 * speaks Chat Completions, and the presets of `OpenAiCompatible`.
 *
 * @since 0.1.0
 * @category constants
 */
export const kinds: ReadonlyArray<AnyKind<HttpClient.HttpClient | Scope.Scope>> = [
  kind({ kind: OpenAi.kind, settings: OpenAi.settings, make: OpenAi.make }),
  kind({ kind: AzureOpenAi.kind, settings: AzureOpenAi.settings, make: AzureOpenAi.make }),
  kind({ kind: Anthropic.kind, settings: Anthropic.settings, make: Anthropic.make }),
  kind({ kind: Groq.kind, settings: Groq.settings, make: Groq.make }),
  kind({ kind: Google.kind, settings: Google.settings, make: Google.make }),
  kind({ kind: HuggingFace.kind, settings: HuggingFace.settings, make: HuggingFace.make }),
  kind({ kind: Ollama.kind, settings: Ollama.settings, make: Ollama.make }),
  kind({ kind: Replicate.kind, settings: Replicate.settings, make: Replicate.make }),
  compatible,
  ...(Object.keys(OpenAiCompatible.presets) as Array<OpenAiCompatible.PresetName>).map(preset)
]

/**
 * The kinds of embeddings that every registry has: those of this package, `compatible` for any server that speaks OpenAI's
 * format, and `local`, which is core's and needs neither a key nor a network.
 *
 * @since 0.1.0
 * @category constants
 */
export const embeddingsKinds: ReadonlyArray<AnyEmbeddingsKind<HttpClient.HttpClient | Scope.Scope>> = [
  embeddingsKind({ kind: OpenAiEmbeddings.kind, settings: OpenAiEmbeddings.settings, make: OpenAiEmbeddings.make }),
  embeddingsKind({
    kind: AzureOpenAiEmbeddings.kind,
    settings: AzureOpenAiEmbeddings.settings,
    make: AzureOpenAiEmbeddings.make
  }),
  embeddingsKind({ kind: GoogleEmbeddings.kind, settings: GoogleEmbeddings.settings, make: GoogleEmbeddings.make }),
  embeddingsKind({
    kind: HuggingFaceEmbeddings.kind,
    settings: HuggingFaceEmbeddings.settings,
    make: HuggingFaceEmbeddings.make
  }),
  embeddingsKind({ kind: OllamaEmbeddings.kind, settings: OllamaEmbeddings.settings, make: OllamaEmbeddings.make }),
  compatibleEmbeddings,
  localEmbeddings
]

// ---------------------------------------------------------------------------------------------------------------------
// the registry
// ---------------------------------------------------------------------------------------------------------------------

/**
 * One line of `list`. `users` is the number of scopes that hold it.
 *
 * @since 0.1.0
 * @category models
 */
export interface ProviderInfo {
  readonly name: string
  readonly what: "provider" | "embeddings"
  readonly state: "building" | "in use" | "idle"
  readonly users: number
  /** Known once it is made. */
  readonly kind: string | undefined
  /** Known once it is made. */
  readonly model: string | undefined
}

/**
 * The health of one language model. What is wrong is in `details`.
 *
 * @since 0.1.0
 * @category models
 */
export interface ProviderHealth extends Health.CheckResult {
  readonly name: string
  readonly latencyMs: number
}

/**
 * Which kinds there are beside those that every registry has, and how the registry treats what nobody uses and what does
 * not answer. Of two kinds of one name the later wins, so a test replaces one by adding its own.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options<K extends AnyKind = never, M extends AnyEmbeddingsKind = never> {
  readonly kinds?: ReadonlyArray<K> | undefined
  readonly embeddings?: ReadonlyArray<M> | undefined
  /**
   * How long a provider that nobody holds is kept: 5 minutes by default, which is longer than its circuit breakers stay
   * open by default; zero releases at once. What a breaker has learnt goes with it.
   */
  readonly idleTimeToLive?: Duration.DurationInput | undefined
  /** How long `health` waits for one provider before it counts as down: 5 seconds by default. */
  readonly healthTimeout?: Duration.DurationInput | undefined
}

/**
 * The language models and embeddings of an application.
 *
 * ```yaml
 * llm:
 *   default: main
 *   defaultEmbeddings: documents
 *   providers:
 *     main:
 *       kind: anthropic
 *       apiKey: ${ANTHROPIC_API_KEY}
 *       model: claude-sonnet-4-5
 *       timeout: 90 seconds
 *     quick:
 *       kind: groq
 *       apiKey: ${GROQ_API_KEY}
 *       model: openai/gpt-oss-20b
 *     ollama:
 *       model: qwen3
 *   embeddings:
 *     documents:
 *       kind: openai
 *       apiKey: ${OPENAI_API_KEY}
 *       model: text-embedding-3-small
 * ```
 *
 * The settings of a provider are `kind`, those that its module's `settings` names, and those of all calls (`timeout`,
 * `firstContentTimeout`, `idleTimeout`, `streamTimeout`, `attempts`, `retryDelay`, `structuredOutput`, `captureContent`).
 * `kind` may be left out where the name is that of a kind. A default need not be said where there is only one.
 *
 * - `get` gives the language model of a name (the default without one) and makes it if nobody holds it yet, once, however
 *   many ask at the same time. It is held until the scope closes. A build that fails is forgotten: its callers all get the
 *   error, which has every problem of its settings, and the next one builds again. It is built with the registry's own
 *   references, never the caller's. Who asks for one name gets one provider, with one circuit breaker for each model.
 * - `embeddings` does the same for embeddings.
 * - `list` tells of what is made. It never shows a setting but the kind and the model.
 * - `health` asks every configured language model whether its provider answers and knows the model, all at once, each
 *   within its timeout; it costs no tokens. One that cannot be made is down.
 * - `check` reads the settings of everything that is configured, and fails with all problems in them. Worth a look at the
 *   start; nothing is made.
 * - `unused` are the paths in configuration that nobody has asked for: worth a look once an application is up.
 * - `invalidate` takes a name's language model and embeddings out of the registry: who holds them keeps them, the next
 *   caller gets new ones.
 *
 * @since 0.1.0
 * @category tags
 */
export class LlmProviders extends Context.Tag("@underlay/llm/LlmProviders")<
  LlmProviders,
  {
    readonly get: (name?: string | undefined) => Effect.Effect<LlmService, LlmProvidersError, Scope.Scope>
    readonly embeddings: (name?: string | undefined) => Effect.Effect<EmbeddingsService, LlmProvidersError, Scope.Scope>
    readonly list: Effect.Effect<ReadonlyArray<ProviderInfo>>
    readonly health: Effect.Effect<ReadonlyArray<ProviderHealth>, LlmProvidersError>
    readonly check: Effect.Effect<void, LlmProvidersError>
    readonly unused: Effect.Effect<ReadonlyArray<string>, LlmProvidersError>
    readonly invalidate: (name: string) => Effect.Effect<void>
    readonly kinds: ReadonlyArray<string>
    readonly embeddingsKinds: ReadonlyArray<string>
  }
>() {}

/** Where what the registry has stands in configuration. */
const root = "llm"

const namePattern = /^[A-Za-z0-9._-]{1,128}$/

const unprintable = /[\p{C}\p{Zl}\p{Zp}]/u

interface FailedOptions {
  readonly problems?: Settings.Problems | undefined
  readonly cause?: unknown
}

const failed = (reason: Reason, path: Settings.Path, description: string, more: FailedOptions = {}) =>
  new LlmProvidersError({
    reason,
    path: path.join("."),
    description,
    ...(more.problems === undefined ? {} : { problems: more.problems }),
    ...(more.cause === undefined ? {} : { cause: more.cause })
  })

const invalid = (path: Settings.Path, problems: Settings.Problems) =>
  failed("InvalidSettings", path, `${problems.length === 1 ? "a setting" : "settings"} of it cannot be`, { problems })

/** A provider that could not be made of settings that are right one by one. */
const refused = (path: Settings.Path, error: LlmError | CoreEmbeddings.EmbeddingsError): LlmProvidersError =>
  failed(
    error.isRetryable ? "Unavailable" : "InvalidOptions",
    path,
    error instanceof LlmError ? (error.issue ?? error.message) : error.description,
    { cause: error }
  )

/** One of the two tables. */
interface Place {
  readonly what: ProviderInfo["what"]
  /** In messages. */
  readonly words: string
  readonly name: "providers" | "embeddings"
  readonly default: "default" | "defaultEmbeddings"
}

/** A table, and what can stand in it. */
interface Table<Service, R> extends Place {
  readonly kinds: ReadonlyMap<string, Forgotten<Service, LlmError | CoreEmbeddings.EmbeddingsError, R>>
}

/** A kind and its settings, ready to be made. */
interface Chosen<Service, R> {
  readonly kind: string
  readonly make: Effect.Effect<Service, LlmError | CoreEmbeddings.EmbeddingsError, R>
}

/** What a table says of a name; or all that is wrong with it. */
const choose = <Service, R>(
  table: Table<Service, R>,
  name: string
): Effect.Effect<Chosen<Service, R>, LlmProvidersError> =>
  Effect.gen(function* () {
    const path = [root, table.name, name]
    const problems: Array<string> = []
    const gather = <A>(effect: Effect.Effect<A, Settings.Problems>) =>
      Effect.catchAll(effect, (found): Effect.Effect<undefined> => {
        problems.push(...found)
        return Effect.succeed(undefined)
      })
    if (!namePattern.test(name)) {
      return yield* failed(
        "UnknownName",
        // Such as cannot be printed have no place in a message: who asks may not have made up the name.
        name.length > 128 || unprintable.test(name) ? [root, table.name] : path,
        "a name is one to 128 letters, digits, dots, underscores and hyphens"
      )
    }
    const said = yield* gather(Settings.textAt(path, "kind"))
    if (problems.length > 0) return yield* invalid(path, problems)
    const known = [...table.kinds.keys()].join(", ")
    const chosen = kindOf(table, said ?? name)
    if (chosen === undefined) {
      if (said === undefined && !(yield* isThere(table, name))) {
        const names = (yield* namesIn(table)).join(", ")
        return yield* failed(
          "UnknownName",
          path,
          `${table.words} of this name are not configured; there are: ${names || "none"}`
        )
      }
      const advice = `kinds are ${known}; another is added to the list given to LlmProviders.layer`
      return yield* failed("UnknownKind", path, "it is to be of a kind that there is not", {
        problems: yield* Settings.problemAt(
          path,
          "kind",
          said === undefined ? `missing, and the name is none of a kind: ${advice}` : `there is no such kind: ${advice}`
        )
      })
    }
    const settings = yield* gather(Settings.read(path, chosen.settings))
    const names = ["kind", ...(yield* Settings.settingsOf(chosen.settings))]
    problems.push(...(yield* Settings.strangers(path, names, `the kind ${chosen.kind}`)))
    if (problems.length > 0) return yield* invalid(path, problems)
    // Its own description read them.
    return { kind: chosen.kind, make: Effect.suspend(() => chosen.make(settings as never, name)) }
  })

/** The names in a table, as they are written there. */
const namesIn = <Service, R>(table: Table<Service, R>): Effect.Effect<ReadonlyArray<string>, LlmProvidersError> =>
  Effect.flatMap(listed(table), (names) => Effect.filter(names, (name) => isConfigured(table, name)))

const listed = (table: Place): Effect.Effect<ReadonlyArray<string>, LlmProvidersError> =>
  Effect.mapError(Settings.namesAt([root, table.name]), (problems) => invalid([root, table.name], problems))

/**
 * Whether a listed name is one: what only begins the name of a variable (`LLM_PROVIDERS_MY_FAST_MODEL` of `my-fast`) has
 * nothing of its own.
 */
const isConfigured = <Service, R>(table: Table<Service, R>, name: string): Effect.Effect<boolean> =>
  kindOf(table, name) !== undefined
    ? Effect.succeed(true)
    : Effect.zipWith(
        Settings.stands([root, table.name], name),
        Settings.stands([root, table.name, name], "kind"),
        (table, kind) => table || kind
      )

/** The kind of a name: as configuration spells it, or as somebody else would. */
const kindOf = <Service, R>({ kinds }: Table<Service, R>, name: string) =>
  kinds.get(name) ?? [...kinds.values()].find(({ kind }) => Settings.canonical(kind) === Settings.canonical(name))

/** Whether anything is said of a name. */
const isThere = (table: Place, name: string): Effect.Effect<boolean, LlmProvidersError> =>
  Effect.zipWith(
    listed(table),
    Effect.orElseSucceed(Settings.namesAt([root, table.name, name]), () => ["unreadable"]),
    (names, inner) => names.includes(name) || inner.length > 0
  )

/** A name as it is written in the table: names that differ in their spelling alone are one, unless both are there. */
const resolve = (table: Place, name: string): Effect.Effect<string, LlmProvidersError> =>
  Effect.map(listed(table), (names) => {
    if (names.includes(name)) return name
    const alike = names.filter((one) => Settings.canonical(one) === Settings.canonical(name))
    return alike.length === 1 ? (alike[0] ?? name) : name
  })

/** The name of what is meant where no name is said. */
const defaultOf = <Service, R>(table: Table<Service, R>): Effect.Effect<string, LlmProvidersError> =>
  Effect.gen(function* () {
    const said = yield* Effect.mapError(Settings.textAt([root], table.default), (problems) => invalid([root], problems))
    if (said !== undefined) return said
    const names = yield* namesIn(table)
    const [only] = names
    if (only !== undefined && names.length === 1) return only
    return yield* failed(
      "NoDefault",
      [root, table.default],
      `say which of the ${table.words} is the default; there are: ${names.join(", ") || "none"}`
    )
  })

/**
 * Makes the registry. The configuration is the one that it is made under.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = <K extends AnyKind = never, M extends AnyEmbeddingsKind = never>(
  options: Options<K, M> = {}
): Effect.Effect<Context.Tag.Service<LlmProviders>, never, HttpClient.HttpClient | Requirements<K | M> | Scope.Scope> =>
  Effect.gen(function* () {
    type Needs = HttpClient.HttpClient | Requirements<K | M> | Scope.Scope
    const provider = yield* Effect.configProviderWith(Effect.succeed)
    const healthTimeout = Duration.decode(options.healthTimeout ?? "5 seconds")

    const byName = <One extends { readonly kind: string }>(all: ReadonlyArray<One>): ReadonlyMap<string, One> =>
      new Map(all.map((one) => [one.kind, one]))
    const chat: Table<LlmService, Needs> = {
      what: "provider",
      words: "language models",
      name: "providers",
      default: "default",
      kinds: byName([...kinds, ...((options.kinds ?? []) as ReadonlyArray<AnyKind<Needs>>)])
    }
    const vectors: Table<EmbeddingsService, Needs> = {
      what: "embeddings",
      words: "embeddings",
      name: "embeddings",
      default: "defaultEmbeddings",
      kinds: byName([...embeddingsKinds, ...((options.embeddings ?? []) as ReadonlyArray<AnyEmbeddingsKind<Needs>>)])
    }

    // What is told of what is made, by its place in configuration, and what was asked for.
    const told = new Map<string, { readonly kind: string; readonly model: string }>()
    const asked = new Set<string>()
    const keyOf = (table: string, name: string) => `${table}\u0000${name}`

    /** The table as a kind of connections: those are shared, counted, released when idle and forgotten when they fail. */
    const connections = <Service extends { readonly model: string }>(table: Table<Service, Needs>) =>
      connectionKind<Service, undefined>({
        kind: table.what,
        // Which settings there are, the settings say: they are read when it is made.
        settings: Config.succeed(undefined),
        make: (name) =>
          Effect.gen(function* () {
            const chosen = yield* choose(table, name)
            const service = yield* Effect.mapError(chosen.make, (error) => refused([root, table.name, name], error))
            const key = keyOf(table.what, name)
            const line = { kind: chosen.kind, model: service.model }
            yield* Effect.acquireRelease(
              Effect.sync(() => told.set(key, line)),
              () => Effect.sync(() => told.get(key) === line && told.delete(key))
            )
            const release = yield* ConnectionLifecycle.track({ kind: table.what, name })
            return {
              name,
              kind: table.what,
              plane: "external",
              use: <A, E, R>(f: (client: Service) => Effect.Effect<A, E, R>) => f(service),
              health: Effect.succeed({ status: "up" }),
              stats: Effect.succeed({ total: 0, idle: 0, inUse: 0, waiting: 0 }),
              state: release.state(Effect.succeed("ready")),
              drained: release.drained
            } satisfies Connection<Service>
          }).pipe(
            Effect.mapError(
              (error) =>
                new ConnectionError({
                  reason: "InvalidSettings",
                  kind: table.what,
                  connection: name,
                  method: "get",
                  description: error.description,
                  cause: error
                })
            ),
            // Builds run in the context of the registry, which has all that the kinds need: `make` demands it.
            Effect.mapInputContext((context: Context.Context<Scope.Scope>) => context as Context.Context<Needs>)
          )
      })

    const chatKind = connections(chat)
    const vectorsKind = connections(vectors)
    const registry = yield* Connections.make([chatKind, vectorsKind], {
      idleTimeToLive: options.idleTimeToLive ?? "5 minutes"
    })

    const configured = <A, E>(effect: Effect.Effect<A, E>): Effect.Effect<A, E> =>
      Effect.withConfigProvider(effect, provider)

    const take = <Service extends { readonly model: string }>(
      table: Table<Service, Needs>,
      of: ReturnType<typeof connections<Service>>,
      wanted: string | undefined
    ): Effect.Effect<Service, LlmProvidersError, Scope.Scope> =>
      Effect.gen(function* () {
        // What is there already need not be looked up.
        const name =
          wanted !== undefined && told.has(keyOf(table.what, wanted))
            ? wanted
            : yield* configured(
                Effect.flatMap(wanted === undefined ? defaultOf(table) : Effect.succeed(wanted), (said) =>
                  resolve(table, said)
                )
              )
        const failure = (error: unknown) =>
          error instanceof ConnectionError && error.original instanceof LlmProvidersError
            ? error.original
            : failed("Closed", [root, table.name, name], "the registry is released", { cause: error })
        const key = keyOf(table.what, name)
        asked.add(key)
        const connection = yield* registry.get(of, name).pipe(
          Effect.mapError(failure),
          // Names that users made up are not kept.
          Effect.tapError(({ reason }) => Effect.sync(() => reason === "UnknownName" && asked.delete(key)))
        )
        return yield* Effect.mapError(
          connection.use((service) => Effect.succeed(service)),
          failure
        )
      })

    const get = (name?: string) => take(chat, chatKind, name)

    const healthOf = (name: string): Effect.Effect<ProviderHealth> =>
      Effect.gen(function* () {
        const started = yield* Clock.currentTimeMillis
        const found = yield* Effect.scoped(
          Effect.flatMap(get(name), (llm): Effect.Effect<Health.CheckResult, LlmError> => llm.health)
        ).pipe(
          Effect.disconnect,
          Effect.timeoutTo({
            duration: healthTimeout,
            onSuccess: (result): Health.CheckResult => result,
            onTimeout: (): Health.CheckResult => ({
              status: "down",
              details: { error: `no answer within ${Duration.format(healthTimeout)}` }
            })
          }),
          Effect.catchAll((error) =>
            Effect.succeed<Health.CheckResult>({
              status: "down",
              details: { reason: error.reason, error: error.message }
            })
          ),
          Effect.catchAllDefect(() =>
            Effect.succeed<Health.CheckResult>({ status: "down", details: { error: "the check died" } })
          )
        )
        return { ...found, name, latencyMs: (yield* Clock.currentTimeMillis) - started }
      })

    /** A default is one of the names, or a kind that needs no settings. */
    const problemOfDefault = <Service, R>(table: Table<Service, R>, said: string, names: ReadonlyArray<string>) =>
      Effect.gen(function* () {
        const name = yield* resolve(table, said)
        return names.includes(name) || Either.isRight(yield* Effect.either(choose(table, name)))
          ? []
          : yield* Settings.problemAt(
              [root],
              table.default,
              `there are no ${table.words} of this name; there are: ${names.join(", ") || "none"}`
            )
      })

    const problemsIn = <Service, R>(table: Table<Service, R>): Effect.Effect<Settings.Problems> =>
      Effect.gen(function* () {
        const names = yield* namesIn(table)
        const each = yield* Effect.forEach(names, (name) =>
          Effect.match(choose(table, name), {
            onFailure: (error) => (error.problems.length > 0 ? error.problems : [error.message]),
            onSuccess: (): Settings.Problems => []
          })
        )
        const wrongDefault = yield* Effect.matchEffect(Settings.textAt([root], table.default), {
          onFailure: Effect.succeed,
          onSuccess: (said) => (said === undefined ? Effect.succeed([]) : problemOfDefault(table, said, names))
        })
        return [...wrongDefault, ...each.flat()]
      }).pipe(Effect.catchAll((error) => Effect.succeed(error.problems)))

    const unusedIn = <Service, R>(table: Table<Service, R>): Effect.Effect<ReadonlyArray<string>, LlmProvidersError> =>
      Effect.map(namesIn(table), (names) =>
        names.flatMap((name) => (asked.has(keyOf(table.what, name)) ? [] : [[root, table.name, name].join(".")]))
      )

    return LlmProviders.of({
      get,
      embeddings: (name) => take(vectors, vectorsKind, name),
      kinds: [...chat.kinds.keys()],
      embeddingsKinds: [...vectors.kinds.keys()],
      list: Effect.map(registry.list, (all) =>
        all.map(({ kind: what, name, state, users }): ProviderInfo => {
          const line = told.get(keyOf(what, name))
          return {
            name,
            what: what === vectors.what ? vectors.what : chat.what,
            state,
            users,
            kind: line?.kind,
            model: line?.model
          }
        })
      ),
      health: Effect.flatMap(configured(namesIn(chat)), (names) =>
        Effect.forEach(names, healthOf, { concurrency: "unbounded" })
      ),
      check: configured(
        Effect.flatMap(Effect.all([problemsIn(chat), problemsIn(vectors)]), (found) => {
          const problems = found.flat()
          return problems.length === 0 ? Effect.void : Effect.fail(invalid([root], problems))
        })
      ),
      unused: configured(
        Effect.zipWith(unusedIn(chat), unusedIn(vectors), (ofChat, ofVectors) => [...ofChat, ...ofVectors])
      ),
      invalidate: (name) =>
        Effect.forEach(
          [
            { table: chat, of: chatKind },
            { table: vectors, of: vectorsKind }
          ],
          ({ of, table }) =>
            Effect.flatMap(
              Effect.orElseSucceed(configured(resolve(table, name)), () => name),
              (found) => registry.invalidate(of, found)
            ),
          { discard: true }
        )
    })
  })

// ---------------------------------------------------------------------------------------------------------------------
// layers and accessors
// ---------------------------------------------------------------------------------------------------------------------

/**
 * The registry as a layer. What it holds is released with it.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = <K extends AnyKind = never, M extends AnyEmbeddingsKind = never>(
  options?: Options<K, M>
): Layer.Layer<LlmProviders, never, HttpClient.HttpClient | Requirements<K | M>> =>
  Layer.scoped(LlmProviders, make(options))

/**
 * The language model of a name, held as long as the layer is in use.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerOf = (name: string): Layer.Layer<Llm, LlmProvidersError, LlmProviders> => Layer.scoped(Llm, get(name))

/**
 * The default language model (`llm.default`), held as long as the layer is in use.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerDefault: Layer.Layer<Llm, LlmProvidersError, LlmProviders> = Layer.scoped(
  Llm,
  Effect.suspend(() => get())
)

/**
 * The embeddings of a name, held as long as the layer is in use.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerEmbeddingsOf = (
  name: string
): Layer.Layer<CoreEmbeddings.Embeddings, LlmProvidersError, LlmProviders> =>
  Layer.scoped(CoreEmbeddings.Embeddings, embeddings(name))

/**
 * The default embeddings (`llm.defaultEmbeddings`), held as long as the layer is in use.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerEmbeddings: Layer.Layer<CoreEmbeddings.Embeddings, LlmProvidersError, LlmProviders> = Layer.scoped(
  CoreEmbeddings.Embeddings,
  Effect.suspend(() => embeddings())
)

/**
 * The language model of a name, or the default one: `LlmProviders.get("quick")`. It is held until the scope closes, so a
 * stream of it is to be run within: `Stream.unwrapScoped(Effect.map(LlmProviders.get("quick"), (llm) => llm.stream(ask)))`.
 *
 * @since 0.1.0
 * @category accessors
 */
export const get = (
  name?: string | undefined
): Effect.Effect<LlmService, LlmProvidersError, LlmProviders | Scope.Scope> =>
  Effect.flatMap(LlmProviders, (providers) => providers.get(name))

/**
 * The embeddings of a name, or the default ones. They are held until the scope closes.
 *
 * @since 0.1.0
 * @category accessors
 */
export const embeddings = (
  name?: string | undefined
): Effect.Effect<EmbeddingsService, LlmProvidersError, LlmProviders | Scope.Scope> =>
  Effect.flatMap(LlmProviders, (providers) => providers.embeddings(name))

/**
 * Runs an effect with the language model of a name as its `Llm`, and holds it for that long.
 *
 * ```ts
 * const summary = Llm.generate(request).pipe(LlmProviders.provide("quick"))
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const provide =
  (name: string) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | LlmProvidersError, Exclude<R, Llm> | LlmProviders> =>
    Effect.scopedWith((scope) =>
      Effect.flatMap(
        // The scope is for the provider alone: what the effect acquires belongs to whoever runs it.
        Effect.flatMap(LlmProviders, (providers) => Scope.extend(providers.get(name), scope)),
        (llm) => Effect.provideService(effect, Llm, llm)
      )
    )
