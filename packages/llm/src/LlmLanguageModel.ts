/**
 * Our models as those of `@effect/ai`: any `Llm` is a `LanguageModel` and any `Embeddings` an `EmbeddingModel`, so that
 * programs, toolkits and chats written for that package run on every provider here. Needs `@effect/ai`, which nothing else
 * of this package does.
 *
 * What `@effect/ai` says of calls, retries, limits of time and telemetry stays with the provider's layer: one client span,
 * the same metrics, the same breaker.
 *
 * @since 0.1.0
 */
import * as AiError from "@effect/ai/AiError"
import * as EmbeddingModel from "@effect/ai/EmbeddingModel"
import * as LanguageModel from "@effect/ai/LanguageModel"
import * as Prompt from "@effect/ai/Prompt"
import * as Response from "@effect/ai/Response"
import * as Telemetry from "@effect/ai/Telemetry"
import * as Tool from "@effect/ai/Tool"
import type * as Toolkit from "@effect/ai/Toolkit"
import { Embeddings, EmbeddingsError } from "@underlay/core/storage/Embeddings"
import * as Cause from "effect/Cause"
import * as Channel from "effect/Channel"
import * as Chunk from "effect/Chunk"
import * as Context from "effect/Context"
import * as DateTime from "effect/DateTime"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as ParseResult from "effect/ParseResult"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as Tracer from "effect/Tracer"
import type { Concurrency, Mutable } from "effect/Types"
import * as AiErrors from "./internal/aiErrors.ts"
import * as AiParts from "./internal/aiParts.ts"
import * as AiPrompt from "./internal/aiPrompt.ts"
import * as JsonSchema from "./internal/jsonSchema.ts"
import { withoutParameters } from "./internal/toolkitSpans.ts"
import { json } from "./internal/wire.ts"
import { Llm, type LlmService } from "./Llm.ts"
import { LlmError } from "./LlmError.ts"
import type { LlmRequest } from "./LlmRequest.ts"
import { contentOf, type FinishPart, type LlmResponse, type LlmStreamPart, type LlmToolCall } from "./LlmResponse.ts"
import * as LlmTool from "./LlmTool.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Settings
// ---------------------------------------------------------------------------------------------------------------------

/**
 * What `@effect/ai` has no words for: the settings of a request beside its prompt and its tools.
 *
 * @since 0.1.0
 * @category models
 */
export interface RequestSettings extends Omit<LlmRequest, "messages" | "tools" | "toolChoice" | "responseFormat"> {}

/**
 * The settings of the calls made within an effect or a stream, over those of the layer; `providerOptions` are put together
 * provider by provider.
 *
 * ```ts
 * LanguageModel.generateText({ prompt: "…" }).pipe(
 *   Effect.provideService(LlmLanguageModel.Settings, { temperature: 0, reasoningEffort: "low" })
 * )
 * ```
 *
 * @since 0.1.0
 * @category references
 */
export class Settings extends Context.Reference<Settings>()("@underlay/llm/LlmLanguageModel/Settings", {
  defaultValue: (): RequestSettings => ({})
}) {}

/** Settings over others. */
const over = (base: RequestSettings, settings: RequestSettings): RequestSettings => {
  const own = settings.providerOptions
  if (own === undefined || base.providerOptions === undefined) return { ...base, ...settings }
  const providerOptions: Record<string, Readonly<Record<string, unknown>> | undefined> = { ...base.providerOptions }
  for (const [provider, fields] of Object.entries(own)) {
    providerOptions[provider] = { ...providerOptions[provider], ...fields }
  }
  return { ...base, ...settings, providerOptions }
}

// ---------------------------------------------------------------------------------------------------------------------
// The model
// ---------------------------------------------------------------------------------------------------------------------

const module = "LlmLanguageModel"

type Method = "generateText" | "generateObject" | "streamText"
type Tools = Record<string, Tool.Any>
type Handlers = Toolkit.WithHandler<Tools>

/** What is asked, as far as it matters here: which tools, errors and requirements it brings is for the caller's types. */
interface Asked {
  readonly prompt: Prompt.RawInput
  readonly toolkit?: Handlers | Effect.Effect<Handlers, AiError.AiError> | undefined
  readonly toolChoice?: LanguageModel.ToolChoice<string> | undefined
  readonly concurrency?: Concurrency | undefined
  readonly disableToolCallResolution?: boolean | undefined
}

interface AskedForObject<A, I extends Record<string, unknown>> extends Asked {
  readonly objectName?: string | undefined
  readonly schema: Schema.Schema<A, I>
}

interface Plan {
  readonly request: LlmRequest
  readonly toolkit: Handlers | undefined
  readonly ids: AiParts.Ids
  readonly options: Mutable<LanguageModel.ProviderOptions>
}

const refuse = (method: Method, description: string): AiError.AiError =>
  new AiError.MalformedInput({ module, method, description })

/** The tools of a toolkit that may be called, and how. */
const toolsOf = (
  method: Method,
  toolkit: Handlers | undefined,
  choice: LanguageModel.ToolChoice<string> = "auto"
): Either.Either<
  Pick<LlmRequest, "tools" | "toolChoice"> & { readonly given: ReadonlyArray<Tool.Any> },
  AiError.AiError
> => {
  const all = toolkit === undefined ? [] : Object.values(toolkit.tools)
  if (all.length === 0) return Either.right({ given: all })
  const named = typeof choice === "string" ? [] : "tool" in choice ? [choice.tool] : choice.oneOf
  const unknown = named.filter((name) => all.every((tool) => tool.name !== name))
  if (unknown.length > 0) {
    return Either.left(refuse(method, `toolChoice: no such tool in the toolkit: ${unknown.join(", ")}`))
  }
  const given = typeof choice === "object" && "oneOf" in choice ? all.filter(({ name }) => named.includes(name)) : all
  for (const tool of given) {
    if (Tool.isProviderDefined(tool)) {
      const by = tool.providerName
      return Either.left(
        refuse(
          method,
          `the tool ${tool.name} is one of the provider's own: ask for ${by} in providerOptions (\`tools\`)`
        )
      )
    }
  }
  const tools: Array<LlmTool.LlmTool> = []
  for (const tool of given) {
    const described = Either.try(() =>
      LlmTool.fromToolkit({
        tools: {
          [tool.name]: {
            name: tool.name,
            description: tool.description ?? Tool.getDescriptionFromSchemaAst(tool.parametersSchema.ast),
            parametersSchema: tool.parametersSchema
          }
        }
      })
    )
    if (Either.isLeft(described)) {
      const why = `the parameters of the tool ${tool.name} have no JSON Schema: give each of them a type that JSON has`
      return Either.left(refuse(method, why))
    }
    tools.push(...described.right)
  }
  if (tools.length === 0) return Either.right({ given })
  if (typeof choice === "string") return Either.right({ given, tools, toolChoice: choice })
  if ("tool" in choice) return Either.right({ given, tools, toolChoice: { name: choice.tool } })
  const [only] = tools
  if (choice.mode !== "required") return Either.right({ given, tools, toolChoice: "auto" })
  return Either.right({
    given,
    tools,
    toolChoice: tools.length === 1 && only !== undefined ? { name: only.name } : "required"
  })
}

const promptOf = (method: Method, input: Prompt.RawInput): Effect.Effect<Prompt.Prompt, AiError.AiError> =>
  Effect.try({
    try: () => Prompt.make(input),
    catch: (error) =>
      refuse(
        method,
        ParseResult.isParseError(error)
          ? `the prompt is none: ${AiErrors.pathsOf(error.issue)}`
          : "the prompt could not be read"
      )
  })

/** The name of a tool, if it is one that may be said: it is the model's word. */
const sayable = (name: string): string => (/^[\w.-]{1,64}$/.test(name) ? ` ${name}` : "")

const isToolkitEffect = Effect.isEffect as (
  toolkit: NonNullable<Asked["toolkit"]>
) => toolkit is Effect.Effect<Handlers, AiError.AiError>

/**
 * An `Llm` as a `LanguageModel`.
 *
 * - Tools of the toolkit are run once the answer is whole, `concurrency` at once, and their results stand before the
 *   finish, in a stream too. Arguments that do not fit a tool with `failureMode: "return"` are answered to the model as a
 *   failure; those of other tools, and calls of tools that the model was not given, fail with `MalformedOutput`.
 * - Tools that a provider runs itself are refused with `MalformedInput`: they are asked for with `providerOptions`, and
 *   what becomes of them travels with the answer (see `toPrompt`).
 * - `generateObject` asks natively, by a tool or in words, as the provider takes it, and asks once more if the value does
 *   not fit. The tools of its toolkit are not called.
 * - Errors have the `LlmError` as their `cause`, with its reason, `isRetryable` and `retryAfter`: see `errorOf`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (llm: LlmService, settings: RequestSettings = {}): Effect.Effect<LanguageModel.Service> =>
  Effect.map(Effect.serviceOption(Telemetry.CurrentSpanTransformer), (parent) => {
    const { provider } = llm
    const fail = (method: Method) => (error: LlmError) => AiErrors.fromLlmError(error, { module, method })

    const tell = (plan: Plan, response: ReadonlyArray<Response.AllParts<Tools>>): Effect.Effect<void> =>
      Effect.map(Effect.serviceOption(Telemetry.CurrentSpanTransformer), (own) => {
        const transform = Option.getOrUndefined(Option.orElse(own, () => parent))
        if (transform !== undefined) transform({ ...plan.options, response })
      })

    const plan = (
      method: Method,
      asked: Asked,
      span: Tracer.Span,
      responseFormat: LanguageModel.ProviderOptions["responseFormat"] = { type: "text" }
    ): Effect.Effect<Plan, AiError.AiError> =>
      Effect.gen(function* () {
        const prompt = yield* promptOf(method, asked.prompt)
        const conversation = AiPrompt.fromPrompt(prompt)
        if (Either.isLeft(conversation)) {
          return yield* Effect.fail(refuse(method, `${conversation.left.at}: ${conversation.left.why}`))
        }
        const { messages, promptCache } = conversation.right
        const toolkit =
          asked.toolkit === undefined
            ? undefined
            : isToolkitEffect(asked.toolkit)
              ? yield* asked.toolkit
              : asked.toolkit
        const { given, ...tools } = yield* toolsOf(method, toolkit, asked.toolChoice)
        const request: LlmRequest = {
          ...(promptCache === undefined ? {} : { promptCache }),
          ...over(settings, yield* Settings),
          ...tools,
          messages
        }
        const options = {
          prompt,
          tools: [...given],
          toolChoice: given.length === 0 ? ("none" as const) : (asked.toolChoice ?? "auto"),
          responseFormat,
          span
        }
        return { request, toolkit, ids: new AiParts.Ids(messages), options }
      })

    /** A call with its arguments as its tool takes them. */
    const callOf = (
      method: Method,
      asked: Asked,
      { request, toolkit }: Plan,
      call: LlmToolCall,
      id: string
    ): Effect.Effect<AiParts.Call, AiError.AiError> => {
      const { name } = call
      const offered = request.tools?.find((one) => one.name === name)
      const wrong = (description: string) => new AiError.MalformedOutput({ module, method, description })
      const tool = toolkit !== undefined && Object.hasOwn(toolkit.tools, name) ? toolkit.tools[name] : undefined
      if (tool === undefined || offered === undefined) {
        const known = (request.tools ?? []).map((one) => one.name).join(", ")
        return Effect.fail(
          wrong(
            `the model called a tool${sayable(name)} that it was not given${known === "" ? "" : ` (only ${known})`}`
          )
        )
      }
      // Models make up arguments for tools that take none, and nulls for those that may be left out.
      const encoded =
        tool.parametersSchema === Tool.EmptyParams ? {} : JsonSchema.withoutNulls(offered.parameters, call.arguments)
      const misfit = (what: string, words: string): Effect.Effect<AiParts.Call, AiError.AiError> => {
        const error = wrong(`the arguments of the call of ${name} ${what}`)
        return tool.failureMode === "return" && asked.disableToolCallResolution !== true
          ? Effect.succeed({ id, name, encoded, params: encoded, misfit: { error, words } })
          : Effect.fail(error)
      }
      if (call.invalid !== undefined && tool.parametersSchema !== Tool.EmptyParams) {
        return misfit("are not JSON", "The arguments are not JSON.")
      }
      const schema = tool.parametersSchema as unknown as Schema.Schema<unknown, unknown>
      return Effect.matchEffect(Schema.decodeUnknown(schema, { errors: "all" })(encoded), {
        onFailure: ({ issue }) =>
          misfit(
            `do not fit: ${AiErrors.pathsOf(issue)}`,
            `The arguments do not fit: ${ParseResult.TreeFormatter.formatIssueSync(issue)}`
          ),
        onSuccess: (params) => Effect.succeed({ id, name, encoded, params, misfit: undefined })
      })
    }

    /** What the tools answer, in the order of the calls. */
    const resultsOf = (
      asked: Asked,
      toolkit: Handlers | undefined,
      calls: ReadonlyArray<AiParts.Call>
    ): Effect.Effect<ReadonlyArray<Response.ToolResultPart<string, unknown, unknown>>, AiError.AiError> => {
      if (toolkit === undefined || calls.length === 0 || asked.disableToolCallResolution === true) {
        return Effect.succeed([])
      }
      return Effect.forEach(
        calls,
        ({ encoded, id, misfit, name }) => {
          const part = (result: unknown, encodedResult: unknown, isFailure: boolean) =>
            Response.makePart("tool-result", {
              id,
              name,
              result,
              encodedResult,
              isFailure,
              providerExecuted: false
            })
          if (misfit !== undefined) return Effect.succeed(part(misfit.error, misfit.words, true))
          return Effect.map(
            // It decodes what it is given by the schema of that tool.
            withoutParameters(toolkit.handle(name, encoded as never)) as Effect.Effect<
              Tool.HandlerResult<Tool.Any>,
              AiError.AiError
            >,
            ({ encodedResult, isFailure, result }) => part(result, encodedResult, isFailure)
          )
        },
        { concurrency: asked.concurrency }
      )
    }

    const within = <A, E>(
      method: Method,
      asked: Asked,
      attributes: Record<string, unknown>,
      use: (span: Tracer.Span) => Effect.Effect<A, E>
    ): Effect.Effect<A, E> =>
      Effect.useSpan(
        `LanguageModel.${method}`,
        {
          captureStackTrace: false,
          attributes: { ...attributes, concurrency: asked.concurrency, toolChoice: asked.toolChoice }
        },
        (span) => Effect.withParentSpan(use(span), span)
      )

    const generateText = (asked: Asked): Effect.Effect<LanguageModel.GenerateTextResponse<Tools>, AiError.AiError> => {
      const method = "generateText"
      return within(method, asked, {}, (span) =>
        Effect.gen(function* () {
          const planned = yield* plan(method, asked, span)
          const { ids, request, toolkit } = planned
          const response = yield* Effect.mapError(llm.generate(request), fail(method))
          const now = yield* DateTime.now
          const calls = yield* Effect.forEach(response.toolCalls, (call) =>
            callOf(method, asked, planned, call, ids.next(call.id))
          )
          const results = yield* resultsOf(asked, toolkit, calls)
          const content = wholeParts(provider, response, calls, now, results)
          yield* tell(planned, content)
          return new LanguageModel.GenerateTextResponse(content)
        })
      )
    }

    const generateObject = <A, I extends Record<string, unknown>>(
      asked: AskedForObject<A, I>
    ): Effect.Effect<LanguageModel.GenerateObjectResponse<Tools, A>, AiError.AiError> => {
      const method = "generateObject"
      const { objectName, schema } = asked
      return within(method, asked, { objectName }, (span) =>
        Effect.gen(function* () {
          const format = { type: "json" as const, objectName: objectName ?? "generateObject", schema }
          const planned = yield* plan(method, { ...asked, toolChoice: undefined }, span, format)
          const name = (objectName ?? "").replace(/[^A-Za-z0-9_-]/g, "_").slice(0, 64)
          const object = yield* Effect.mapError(
            llm.generateObject(schema, planned.request, name === "" ? {} : { name }),
            fail(method)
          )
          const now = yield* DateTime.now
          const answer = withoutCalls(object.response, object.mode === "tool", planned.request.tools)
          const content = wholeParts(provider, { ...answer, usage: object.usage }, [], now, [])
          yield* tell(planned, content)
          return new LanguageModel.GenerateObjectResponse<Tools, A>(object.value, content)
        })
      )
    }

    const streamText = (asked: Asked): Stream.Stream<Response.StreamPart<Tools>, AiError.AiError> => {
      const method = "streamText"
      return Stream.unwrapScoped(
        Effect.gen(function* () {
          const span = yield* Effect.makeSpanScoped(`LanguageModel.${method}`, {
            captureStackTrace: false,
            attributes: { concurrency: asked.concurrency, toolChoice: asked.toolChoice }
          })
          const within = Effect.withParentSpan(span)
          const planned = yield* within(plan(method, asked, span))
          const { ids, request, toolkit } = planned
          const parts = new AiParts.Parts(provider, ids)
          const calls: Array<AiParts.Call> = []
          let finish: FinishPart | undefined

          /** Tools run once the answer is whole: one that breaks has asked for nothing yet. */
          const rest = Effect.suspend(() => {
            const end = finish
            if (end === undefined) {
              return Effect.fail(
                new AiError.MalformedOutput({ module, method, description: "the answer ended without a finish" })
              )
            }
            return Effect.gen(function* () {
              const results = yield* resultsOf(asked, toolkit, calls)
              const now = yield* DateTime.now
              const content = AiParts.renamed(end.content, calls)
              AiPrompt.remember(calls, content)
              return [
                ...AiParts.filesIn(content),
                ...(results as ReadonlyArray<Response.StreamPart<Tools>>),
                AiParts.metadataPartOf(end, now),
                AiParts.finishPartOf(provider, end, content)
              ]
            })
          })

          // One channel for it all: this is run for every chunk.
          type Answer = Channel.Channel<
            Chunk.Chunk<Response.StreamPart<Tools>>,
            Chunk.Chunk<LlmStreamPart>,
            AiError.AiError,
            LlmError,
            void,
            unknown
          >
          const write = (out: Array<Response.StreamPart<Tools>>, then: () => Answer): Answer =>
            out.length === 0 ? then() : Channel.flatMap(Channel.write(Chunk.unsafeFromArray(out)), then)
          const from = (chunk: ReadonlyArray<LlmStreamPart>, begin: number): Answer => {
            const out: Array<Response.StreamPart<Tools>> = []
            for (let at = begin; at < chunk.length; at++) {
              const part = chunk[at]
              if (part === undefined) continue
              if (part.type === "tool-call") {
                const id = parts.call(part, out)
                return write(out, () =>
                  Channel.flatMap(Channel.fromEffect(callOf(method, asked, planned, part, id)), (call) => {
                    calls.push(call)
                    const metadata = AiPrompt.optionsOf({ provider: part.provider, signature: part.signature })
                    return write([AiParts.callPartOf(call, metadata) as never], () => from(chunk, at + 1))
                  })
                )
              }
              if (part.type === "finish") {
                finish = part
                parts.end(out)
              } else parts.push(part, out)
            }
            return write(out, () => loop)
          }
          const loop: Answer = Channel.readWithCause({
            onInput: (chunk: Chunk.Chunk<LlmStreamPart>) => from(Chunk.toReadonlyArray(chunk), 0),
            onFailure: (cause) => Channel.failCause(Cause.map(cause, fail(method))),
            onDone: () => Channel.flatMap(Channel.fromEffect(rest), (out) => write(out, () => Channel.void))
          })
          const stream = Stream.fromChannel(Channel.pipeTo(Stream.toChannel(llm.stream(request)), loop))
          return Stream.provideService(yield* told(planned, stream), Tracer.ParentSpan, span)
        })
      )
    }

    /** The whole of a stream is kept only for those who want to see it. */
    const told = (planned: Plan, stream: Stream.Stream<Response.StreamPart<Tools>, AiError.AiError>) =>
      Effect.map(Effect.serviceOption(Telemetry.CurrentSpanTransformer), (own) => {
        if (Option.isNone(own) && Option.isNone(parent)) return stream
        const seen: Array<Response.StreamPart<Tools>> = []
        return stream.pipe(
          Stream.mapChunks((chunk) => {
            for (const part of chunk) seen.push(part)
            return chunk
          }),
          Stream.ensuring(Effect.suspend(() => tell(planned, seen)))
        )
      })

    // Which tools there are, how they fail and what they need is known to the types of the caller alone.
    return { generateText, generateObject, streamText } as unknown as LanguageModel.Service
  })

/** A whole answer as parts: where it came from, what was said, what tools answered, how it ended. */
const wholeParts = (
  provider: string,
  response: LlmResponse,
  calls: ReadonlyArray<AiParts.Call>,
  now: DateTime.Utc,
  results: ReadonlyArray<Response.ToolResultPart<string, unknown, unknown>>
): Array<Response.Part<Tools>> => {
  const said = response.content.length === 0 ? contentOf(response) : response.content
  const content = AiParts.renamed(said, calls)
  AiPrompt.remember(calls, content)
  return [
    AiParts.metadataPartOf(response, now),
    ...AiParts.partsOf(provider, { ...response, content }, calls),
    ...(results as ReadonlyArray<Response.Part<Tools>>),
    AiParts.finishPartOf(provider, response, content)
  ]
}

/**
 * An answer that was asked for as the arguments of a tool is a text: nobody answers that call. What the model said beside
 * it is not of the value. `tools` are those of the caller, which the call is none of.
 */
const withoutCalls = (response: LlmResponse, byTool: boolean, tools: LlmRequest["tools"] = []): LlmResponse => {
  const call = byTool ? response.toolCalls.find(({ name }) => tools.every((tool) => tool.name !== name)) : undefined
  const text = call === undefined ? undefined : (call.invalid ?? json(call.arguments))
  const said = response.content.filter(
    (part) => part.type !== "tool-call" && (text === undefined || part.type !== "text")
  )
  return {
    ...response,
    toolCalls: [],
    text: text ?? response.text,
    content: text === undefined ? said : [...said, { type: "text", text }],
    finish: response.finish === "tool-calls" ? "stop" : response.finish
  }
}

/**
 * The program's `Llm` as its `LanguageModel`.
 *
 * ```ts
 * const Model = LlmLanguageModel.layer.pipe(Layer.provide(Anthropic.layer({ apiKey, model: "claude-sonnet-4-5" })))
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer: Layer.Layer<LanguageModel.LanguageModel, never, Llm> = Layer.effect(
  LanguageModel.LanguageModel,
  Effect.flatMap(Llm, (llm) => make(llm))
)

/**
 * The same with settings of every request: another model, a temperature, a limit of tokens, options of a provider.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerOf = (settings: RequestSettings): Layer.Layer<LanguageModel.LanguageModel, never, Llm> =>
  Layer.effect(
    LanguageModel.LanguageModel,
    Effect.flatMap(Llm, (llm) => make(llm, settings))
  )

/**
 * The `LlmError` or `EmbeddingsError` that an error of `@effect/ai` was: whether it may be tried again, how soon, and what
 * had arrived. Nothing for errors that are not of a call to a provider.
 *
 * ```ts
 * Effect.retry({ while: (error) => Option.exists(LlmLanguageModel.errorOf(error), (cause) => cause.isRetryable) })
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const errorOf = (error: unknown): Option.Option<LlmError | EmbeddingsError> => {
  const cause = AiError.isAiError(error) && "cause" in error ? error.cause : undefined
  return cause instanceof LlmError || cause instanceof EmbeddingsError ? Option.some(cause) : Option.none()
}

/**
 * An answer, whole or streamed, as what is to be put behind its prompt to go on: what the model said, with the signatures
 * and parts that its provider wants to see again, and what the tools answered. Those of one provider are not sent to
 * another.
 *
 * `Prompt.fromResponseParts` of `@effect/ai`, which its `Chat` uses, leaves signatures out, and gives the arguments of tool
 * calls as the tool takes them and not as the model wrote them. Answers that call tools, where providers insist on it, are
 * put right again for as long as the chat stays in this process; one that is stored and read again has lost them, so make
 * prompts that are stored with this function.
 *
 * ```ts
 * const next = Prompt.merge(prompt, LlmLanguageModel.toPrompt(response.content))
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const toPrompt = (parts: Iterable<Response.AnyPart>): Prompt.Prompt => {
  const all = Array.from(parts)
  const finish = all.find((part) => part.type === "finish")
  const content = finish === undefined ? undefined : AiParts.contentIn(finish)
  if (content === undefined) return Prompt.fromResponseParts(all)
  const results = all.flatMap((part) =>
    part.type === "tool-result" && !part.providerExecuted
      ? [
          Prompt.toolResultPart({
            id: part.id,
            name: part.name,
            isFailure: part.isFailure,
            result: part.encodedResult,
            providerExecuted: false
          })
        ]
      : []
  )
  return Prompt.fromMessages([
    Prompt.assistantMessage({ content: AiPrompt.toPromptParts(content) }),
    ...(results.length === 0 ? [] : [Prompt.toolMessage({ content: results })])
  ])
}

// ---------------------------------------------------------------------------------------------------------------------
// Embeddings
// ---------------------------------------------------------------------------------------------------------------------

/**
 * How texts are embedded for `@effect/ai`.
 *
 * @since 0.1.0
 * @category models
 */
export interface EmbeddingModelOptions {
  /** Vectors of texts that were asked for lately, by `embed`. */
  readonly cache?: { readonly capacity: number; readonly timeToLive: Duration.DurationInput } | undefined
}

/**
 * `Embeddings` as an `EmbeddingModel`. Texts of one `embedMany`, or of many `embed`s under `Effect.withRequestBatching`, go
 * together in batches that the provider accepts. Errors have the `EmbeddingsError` as their `cause`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const makeEmbeddingModel = (
  embeddings: Context.Tag.Service<Embeddings>,
  options: EmbeddingModelOptions = {}
): Effect.Effect<EmbeddingModel.Service> => {
  const many = (texts: ReadonlyArray<string>, method: string): Effect.Effect<Array<Array<number>>, AiError.AiError> =>
    Effect.mapBoth(embeddings.embedMany(texts), {
      onFailure: (error) => AiErrors.fromEmbeddingsError(error, { module, method }),
      onSuccess: (vectors) => vectors.map((vector) => Array.from(vector))
    })
  return Effect.map(
    EmbeddingModel.make({
      embedMany: (texts) =>
        Effect.map(many(texts, "embed"), (all) => all.map((vector, index) => ({ index, embeddings: vector }))),
      ...(options.cache === undefined ? {} : { cache: options.cache })
    }),
    ({ embed }) => ({
      embed,
      embedMany: (texts) =>
        texts.length === 0
          ? Effect.succeed([])
          : Effect.withSpan(many(texts, "embedMany"), "EmbeddingModel.embedMany", { captureStackTrace: false })
    })
  )
}

/**
 * The program's `Embeddings` as its `EmbeddingModel`.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerEmbeddingModel: Layer.Layer<EmbeddingModel.EmbeddingModel, never, Embeddings> = Layer.effect(
  EmbeddingModel.EmbeddingModel,
  Effect.flatMap(Embeddings, (embeddings) => makeEmbeddingModel(embeddings))
)

/**
 * The same with options.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerEmbeddingModelOf = (
  options: EmbeddingModelOptions
): Layer.Layer<EmbeddingModel.EmbeddingModel, never, Embeddings> =>
  Layer.effect(
    EmbeddingModel.EmbeddingModel,
    Effect.flatMap(Embeddings, (embeddings) => makeEmbeddingModel(embeddings, options))
  )
