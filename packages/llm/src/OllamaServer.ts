/**
 * An Ollama server itself: which models it has and runs, what they can do, getting more of them while it says how far it
 * is, and removing them.
 *
 * @since 0.1.0
 */
import type * as HttpClient from "@effect/platform/HttpClient"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import * as ExternalHttp from "@underlay/core/external/ExternalHttp"
import * as Policy from "@underlay/core/resilience/Policy"
import type * as RetryPolicy from "@underlay/core/resilience/RetryPolicy"
import * as Config from "effect/Config"
import type { ConfigError } from "effect/ConfigError"
import * as Context from "effect/Context"
import * as DateTime from "effect/DateTime"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import type * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { type CallContext, envelopeOf, errorOf, isRecord, ownError } from "./internal/classify.ts"
import * as Errors from "./internal/errors.ts"
import * as Ndjson from "./internal/ndjson.ts"
import { headersOf, rootOf } from "./internal/ollama.ts"
import { parse } from "./internal/sse.ts"
import { count, type Json, string } from "./internal/wire.ts"
import { LlmError } from "./LlmError.ts"

/**
 * What a model is, as far as the server says.
 *
 * @since 0.1.0
 * @category models
 */
export interface ModelDetails {
  /** `gguf`, … */
  readonly format: string | undefined
  /** The architecture: `llama`, `qwen3`, … */
  readonly family: string | undefined
  readonly families: ReadonlyArray<string>
  /** As it is called: `8.0B`. */
  readonly parameterSize: string | undefined
  /** `Q4_K_M`, … */
  readonly quantization: string | undefined
  readonly parentModel: string | undefined
  /** What it was trained for, in tokens. */
  readonly contextLength: number | undefined
  readonly embeddingLength: number | undefined
}

/**
 * A model that the server has. `capabilities` are `completion`, `tools`, `vision`, `thinking`, `embedding`, … and absent
 * where the server does not list them; `remoteModel` and `remoteHost` are of one that runs in Ollama's cloud.
 *
 * @since 0.1.0
 * @category models
 */
export interface ListedModel {
  readonly name: string
  readonly digest: string | undefined
  /** In bytes. */
  readonly size: number | undefined
  readonly modifiedAt: DateTime.Utc | undefined
  readonly capabilities: ReadonlyArray<string> | undefined
  readonly remoteModel: string | undefined
  readonly remoteHost: string | undefined
  readonly details: ModelDetails
}

/**
 * A model that is loaded. `contextLength` is the window that it was loaded with, `size` what it takes in all and
 * `sizeVram` what of it is in the memory of the graphics card, in bytes.
 *
 * @since 0.1.0
 * @category models
 */
export interface RunningModel {
  readonly name: string
  readonly digest: string | undefined
  readonly size: number | undefined
  readonly sizeVram: number | undefined
  readonly contextLength: number | undefined
  readonly expiresAt: DateTime.Utc | undefined
  readonly details: ModelDetails
}

/**
 * All about one model. `template` is how conversations are written for it, `parameters` its settings (a name and a value
 * a line), `info` what its file says of itself (`llama.context_length`, …).
 *
 * @since 0.1.0
 * @category models
 */
export interface ModelInfo {
  readonly capabilities: ReadonlyArray<string> | undefined
  /** What it was trained for, in tokens. The window that is used is the server's setting, or `Ollama`'s `contextLength`. */
  readonly contextLength: number | undefined
  readonly embeddingLength: number | undefined
  readonly details: ModelDetails
  readonly template: string | undefined
  readonly parameters: string | undefined
  readonly system: string | undefined
  readonly license: string | undefined
  readonly modifiedAt: DateTime.Utc | undefined
  readonly remoteModel: string | undefined
  readonly remoteHost: string | undefined
  readonly info: Readonly<Record<string, unknown>>
}

/**
 * How far a download is. `status` is the server's word (`pulling manifest`, `pulling 8eeb52dfb3bb`, `verifying sha256
 * digest`, …; the last one is `success`). `completed` of `total` bytes are there of the layer `digest`, and `overall` of
 * all layers that were heard of: the total grows while they are announced.
 *
 * @since 0.1.0
 * @category models
 */
export interface PullProgress {
  readonly status: string
  readonly digest: string | undefined
  readonly total: number | undefined
  readonly completed: number | undefined
  readonly overall: { readonly total: number; readonly completed: number }
}

/**
 * @since 0.1.0
 * @category models
 */
export interface OllamaServerOptions {
  /** `http://127.0.0.1:11434`; `https://ollama.com` for Ollama's cloud. */
  readonly host?: string | undefined
  /** For Ollama's cloud, or a server behind a gateway; sent as a bearer token. */
  readonly apiKey?: Redacted.Redacted | undefined
  /** More headers; they never show in spans or logs. */
  readonly headers?: Readonly<Record<string, string | Redacted.Redacted>> | undefined
  /** The limit of a question with its retries, and of the wait for the first word of a download. 30 seconds. */
  readonly timeout?: Duration.DurationInput | undefined
  /** The limit between two words of a download; the server is silent while it verifies large files. 5 minutes. */
  readonly idleTimeout?: Duration.DurationInput | undefined
  /** By default 3 attempts, 1 second x 2 up to 30 seconds, full jitter. False for a single attempt. */
  readonly retry?: RetryPolicy.RetryPolicy | RetryPolicy.ExponentialOptions | false | undefined
}

/**
 * What can be asked of a server. Everything fails with `LlmError`: `NotFound` for a model that is not there, `Network` or
 * `Timeout` where no server answers.
 *
 * @since 0.1.0
 * @category models
 */
export interface OllamaServerService {
  /** The models that it has, the newest first. */
  readonly list: Effect.Effect<ReadonlyArray<ListedModel>, LlmError>
  /** The models that are loaded. */
  readonly running: Effect.Effect<ReadonlyArray<RunningModel>, LlmError>
  /** All about one model. */
  readonly show: (model: string) => Effect.Effect<ModelInfo, LlmError>
  /**
   * Gets a model, or what is new of it, from Ollama's library. Ends after `success`; fails with `NotFound` for a model
   * that the library does not have, with `StreamTruncated` if the server goes away and with `Timeout` if it falls silent.
   * Interruption closes the connection, whereupon the server stops; pulled again, it goes on where it stopped.
   */
  readonly pull: (model: string) => Stream.Stream<PullProgress, LlmError>
  /** Gives a model another name beside its own. */
  readonly copy: (source: string, destination: string) => Effect.Effect<void, LlmError>
  /** Removes a model from the server. */
  readonly delete: (model: string) => Effect.Effect<void, LlmError>
  /** The version of the server. */
  readonly version: Effect.Effect<string, LlmError>
}

/**
 * An Ollama server.
 *
 * @since 0.1.0
 * @category tags
 */
export class OllamaServer extends Context.Tag("@underlay/llm/OllamaServer")<OllamaServer, OllamaServerService>() {}

/**
 * Makes the handle on a server. Fails with `InvalidRequest` for settings that cannot work.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  options: OllamaServerOptions = {}
): Effect.Effect<OllamaServerService, LlmError, HttpClient.HttpClient | Scope.Scope> =>
  Effect.gen(function* () {
    const root = rootOf(options.host)
    if (!URL.canParse(root) || !/^https?:/i.test(root)) {
      return yield* Effect.fail(unusable("the host is no address: it must begin with http:// or https://"))
    }
    const timeout = options.timeout ?? "30 seconds"
    const policy = yield* Policy.make({ name: service, timeout, retry: options.retry ?? { base: "1 second" } }).pipe(
      Effect.mapError((error) => unusable(error.problems.join("; ")))
    )
    const http = yield* ExternalHttp.make({ service, policy, headers: headersOf(options), health: false })

    const contextOf = (method: string, model?: string): CallContext => ({ provider, model, method })

    const failed = (context: CallContext) => (error: unknown) =>
      Effect.flatMap(Errors.toLlmError(error, context), Effect.fail)

    const asked = (
      context: CallContext,
      request: HttpClientRequest.HttpClientRequest,
      idempotent = true
    ): Effect.Effect<string, LlmError> =>
      http
        .call(
          context.method,
          Effect.flatMap(http.client.execute(request), (response) => response.text).pipe(
            Effect.catchAll(failed(context))
          ),
          { idempotent }
        )
        .pipe(Effect.catchAll(failed(context)))

    const get = (context: CallContext, path: string): Effect.Effect<Json, LlmError> =>
      Effect.flatMap(asked(context, HttpClientRequest.get(`${root}${path}`)), (body) => recordOf(body, context))

    const withBody = (request: HttpClientRequest.HttpClientRequest, body: Json) =>
      HttpClientRequest.bodyText(request, JSON.stringify(body), "application/json")

    const post = (path: string, body: Json) => withBody(HttpClientRequest.post(`${root}${path}`), body)

    const pull = (model: string): Stream.Stream<PullProgress, LlmError> => {
      const context = contextOf("pull", model)
      const request = post("/api/pull", { model, stream: true }).pipe(HttpClientRequest.accept("application/x-ndjson"))
      const attempt = Stream.unwrap(
        Effect.map(Effect.catchAll(http.client.execute(request), failed(context)), (response) =>
          progressIn(
            Stream.mapError(response.stream, (error) => broken(context, Errors.networkError(error, context))),
            context
          )
        )
      )
      return http
        .stream("pull", attempt, {
          timeout,
          firstElementTimeout: timeout,
          idleTimeout: options.idleTimeout ?? "5 minutes"
        })
        .pipe(Stream.catchAll((error) => Stream.fromEffect(failed(context)(error))))
    }

    return {
      list: Effect.suspend(() => {
        const context = contextOf("list")
        return Effect.flatMap(get(context, "/api/tags"), (value) => modelsOf(value, context, listedOf))
      }),
      running: Effect.suspend(() => {
        const context = contextOf("running")
        return Effect.flatMap(get(context, "/api/ps"), (value) => modelsOf(value, context, runningOf))
      }),
      show: (model) => {
        const context = contextOf("show", model)
        return asked(context, post("/api/show", { model })).pipe(
          Effect.flatMap((body) => recordOf(body, context)),
          Effect.map(infoOf)
        )
      },
      pull,
      copy: (source, destination) =>
        Effect.asVoid(asked(contextOf("copy", source), post("/api/copy", { source, destination }))),
      // Done twice, the second time finds nothing.
      delete: (model) =>
        Effect.asVoid(
          asked(contextOf("delete", model), withBody(HttpClientRequest.del(`${root}/api/delete`), { model }), false)
        ),
      version: Effect.suspend(() => {
        const context = contextOf("version")
        return Effect.flatMap(get(context, "/api/version"), (value) => {
          const version = string(value["version"])
          return version === undefined ? malformed(context, "the answer has no version") : Effect.succeed(version)
        })
      })
    }
  })

/**
 * The options as settings, each if it is there: `ollama.host`, `ollama.apiKey`.
 *
 * @since 0.1.0
 * @category config
 */
export const config: Config.Config<OllamaServerOptions> = Config.nested(
  Config.map(
    Config.all({
      apiKey: Config.option(Config.redacted("apiKey")),
      host: Config.option(Config.nonEmptyString("host"))
    }),
    (read): OllamaServerOptions => ({
      apiKey: Option.getOrUndefined(read.apiKey),
      host: Option.getOrUndefined(read.host)
    })
  ),
  "ollama"
)

/**
 * An Ollama server.
 *
 * ```ts
 * const program = Effect.flatMap(OllamaServer.OllamaServer, (server) =>
 *   Stream.runForEach(server.pull("qwen3"), ({ overall, status }) =>
 *     Effect.log(`${status}: ${overall.completed} of ${overall.total} bytes`)
 *   )
 * ).pipe(Effect.provide(OllamaServer.layer()))
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (options: OllamaServerOptions = {}): Layer.Layer<OllamaServer, LlmError, HttpClient.HttpClient> =>
  Layer.scoped(OllamaServer, make(options))

/**
 * An Ollama server, the options read from the configuration; by default `config`.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerConfig = (
  options: Config.Config.Wrap<OllamaServerOptions> = config
): Layer.Layer<OllamaServer, LlmError | ConfigError, HttpClient.HttpClient> =>
  Layer.scoped(OllamaServer, Effect.flatMap(Config.unwrap(options), make))

const provider = "ollama"
const service = "ollama-server"

const unusable = (issue: string): LlmError =>
  new LlmError({ reason: "InvalidRequest", method: "layer", provider, issue, retryable: false, midStream: false })

const malformed = (context: CallContext, issue: string): Effect.Effect<never, LlmError> =>
  Effect.fail(ownError("MalformedResponse", { context, status: 200, midStream: false, hadContent: false, issue }))

const recordOf = (body: string, context: CallContext): Effect.Effect<Json, LlmError> => {
  const value = parse(body)
  const envelope = envelopeOf(value, false)
  if (envelope !== undefined) {
    return Effect.fail(errorOf(envelope, { context, status: 200, midStream: false, hadContent: false }))
  }
  return isRecord(value) ? Effect.succeed(value) : malformed(context, "the body is not a JSON object")
}

const modelsOf = <A>(
  value: Json,
  context: CallContext,
  read: (name: string, entry: Json) => A
): Effect.Effect<ReadonlyArray<A>, LlmError> => {
  const list = value["models"]
  // A server without any model says `null` for the list.
  if (list === null) return Effect.succeed([])
  if (!Array.isArray(list)) return malformed(context, "the body has no list of models")
  return Effect.succeed(
    list.filter(isRecord).flatMap((entry) => {
      const name = string(entry["name"]) ?? string(entry["model"])
      return name === undefined ? [] : [read(name, entry)]
    })
  )
}

const strings = (value: unknown): ReadonlyArray<string> | undefined =>
  Array.isArray(value) ? value.filter((each): each is string => typeof each === "string") : undefined

/** A time; Go's zero time stands for none. */
const timeOf = (value: unknown): DateTime.Utc | undefined =>
  typeof value !== "string" || value.startsWith("0001-01-01")
    ? undefined
    : Option.getOrUndefined(Option.map(DateTime.make(value), DateTime.toUtc))

const detailsOf = (value: unknown): ModelDetails => {
  const details = isRecord(value) ? value : {}
  return {
    format: string(details["format"]),
    family: string(details["family"]),
    families: strings(details["families"]) ?? [],
    parameterSize: string(details["parameter_size"]),
    quantization: string(details["quantization_level"]),
    parentModel: string(details["parent_model"]),
    contextLength: count(details["context_length"]),
    embeddingLength: count(details["embedding_length"])
  }
}

const listedOf = (name: string, entry: Json): ListedModel => ({
  name,
  digest: string(entry["digest"]),
  size: count(entry["size"]),
  modifiedAt: timeOf(entry["modified_at"]),
  capabilities: strings(entry["capabilities"]),
  remoteModel: string(entry["remote_model"]),
  remoteHost: string(entry["remote_host"]),
  details: detailsOf(entry["details"])
})

const runningOf = (name: string, entry: Json): RunningModel => ({
  name,
  digest: string(entry["digest"]),
  size: count(entry["size"]),
  sizeVram: count(entry["size_vram"]),
  contextLength: count(entry["context_length"]),
  expiresAt: timeOf(entry["expires_at"]),
  details: detailsOf(entry["details"])
})

const infoOf = (value: Json): ModelInfo => {
  const info = isRecord(value["model_info"]) ? value["model_info"] : {}
  const details = detailsOf(value["details"])
  // The file names its own architecture, which is not always the family.
  const architecture = string(info["general.architecture"]) ?? details.family
  const ofModel = (name: string) => (architecture === undefined ? undefined : count(info[`${architecture}.${name}`]))
  return {
    capabilities: strings(value["capabilities"]),
    contextLength: ofModel("context_length") ?? details.contextLength,
    embeddingLength: ofModel("embedding_length") ?? details.embeddingLength,
    details,
    template: string(value["template"]),
    parameters: string(value["parameters"]),
    system: string(value["system"]),
    license: string(value["license"]),
    modifiedAt: timeOf(value["modified_at"]),
    remoteModel: string(value["remote_model"]),
    remoteHost: string(value["remote_host"]),
    info
  }
}

/** A download that the connection broke: asked again, it goes on where it stopped. */
const broken = (context: CallContext, cause: LlmError): LlmError =>
  new LlmError({
    ...context,
    reason: "StreamTruncated",
    status: 200,
    retryable: true,
    midStream: true,
    cause: cause.cause ?? cause
  })

/** The library's word for a name that it does not have comes within the stream, with no status of its own. */
const unknownModel = /file does not exist|model .{0,300}not found/i

/** Reads the lines of a download. What fails is the last element. */
const makeReader = (context: CallContext) => {
  const layers = new Map<string, { readonly total: number; readonly completed: number }>()
  let out: Array<Either.Either<PullProgress, LlmError>> = []
  let over = false
  let lines = 0

  const place = { context, status: 200, midStream: true, hadContent: false }

  const fail = (error: LlmError) => {
    over = true
    out.push(Either.left(error))
  }

  const progressOf = (status: string, value: Json): PullProgress => {
    const digest = string(value["digest"])
    const total = count(value["total"])
    // A count of zero is left out.
    const completed = count(value["completed"]) ?? (total === undefined ? undefined : 0)
    if (digest !== undefined && total !== undefined) layers.set(digest, { total, completed: completed ?? 0 })
    const overall = { total: 0, completed: 0 }
    for (const layer of layers.values()) {
      overall.total += layer.total
      overall.completed += layer.completed
    }
    return { status, digest, total, completed, overall }
  }

  const reader = Ndjson.make({
    onValue: (value) => {
      if (over) return
      lines += 1
      const envelope = envelopeOf(value, false)
      if (envelope !== undefined) {
        const error = errorOf(envelope, place)
        return fail(
          unknownModel.test(envelope.message ?? "") ? error.with({ reason: "NotFound", retryable: false }) : error
        )
      }
      const status = isRecord(value) ? string(value["status"]) : undefined
      if (status === undefined || !isRecord(value)) return
      out.push(Either.right(progressOf(status, value)))
      if (status === "success") over = true
    },
    onJunk: () => {
      if (over) return
      fail(
        ownError("MalformedResponse", {
          ...place,
          midStream: lines > 0,
          issue: lines > 0 ? "a line of the stream is not JSON" : "the body is not a stream of JSON"
        })
      )
    }
  })

  const take = () => {
    const elements = out
    out = []
    return elements
  }

  return {
    push: (bytes: Uint8Array) => {
      if (!over) reader.push(bytes)
      return take()
    },
    end: () => {
      if (!over) reader.end()
      if (!over) fail(ownError("StreamTruncated", place))
      return take()
    }
  }
}

const progressIn = (
  body: Stream.Stream<Uint8Array, LlmError>,
  context: CallContext
): Stream.Stream<PullProgress, LlmError> =>
  Stream.suspend(() => {
    const reader = makeReader(context)
    return Stream.mapConcat(body, reader.push).pipe(
      Stream.concat(Stream.suspend(() => Stream.fromIterable(reader.end()))),
      // Each on its own, so that what came before a failure is handed on.
      Stream.rechunk(1),
      Stream.mapEffect((element) => element),
      Stream.takeUntil(({ status }) => status === "success")
    )
  })
