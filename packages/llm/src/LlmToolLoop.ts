/**
 * A model and its tools: asks, runs the tools that the model calls, sends their results back, until the model has no more
 * calls.
 *
 * @since 0.1.0
 */
import * as Redaction from "@underlay/core/operations/Redaction"
import type { AssistantPart, ChatMessage, ToolResultPart } from "@underlay/core/state/ChatMessage"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as ParseResult from "effect/ParseResult"
import * as Stream from "effect/Stream"
import * as JsonSchema from "./internal/jsonSchema.ts"
import * as Telemetry from "./internal/telemetry.ts"
import { TextBuffer } from "./internal/textBuffer.ts"
import { withoutParameters } from "./internal/toolkitSpans.ts"
import { addUsage } from "./internal/usage.ts"
import { Llm, type LlmService } from "./Llm.ts"
import { LlmError } from "./LlmError.ts"
import type { LlmRequest } from "./LlmRequest.ts"
import {
  type FinishPart,
  fromParts,
  type LlmResponse,
  type LlmSource,
  type LlmStreamPart,
  type LlmToolCall,
  toMessage,
  type Usage
} from "./LlmResponse.ts"
import * as LlmTool from "./LlmTool.ts"

/**
 * What a tool answered: the JSON value that the model is told, and whether it is an error.
 *
 * @since 0.1.0
 * @category models
 */
export interface Answer {
  readonly result: unknown
  readonly isError: boolean
}

/**
 * A tool and what runs it. `run` does not fail: what goes wrong is an answer too.
 *
 * @since 0.1.0
 * @category models
 */
export interface Handler<out R = never> {
  readonly tool: LlmTool.LlmTool
  readonly run: (call: LlmToolCall) => Effect.Effect<Answer, never, R>
}

/** What a model may be told of an error: its message, without secrets. */
const said = (error: unknown): unknown => {
  if (typeof error === "string") return Redaction.text(error)
  const { message, tag } = Redaction.error(error)
  return message === "" ? tag : message
}

const failed = (result: unknown): Answer => ({ result, isError: true })

/**
 * A tool with the function that runs it. Its arguments are decoded by the tool's schema; those that do not fit are answered
 * to the model with what is wrong with them, and so is a failure, by its message (`onFailure` says it otherwise). A defect
 * is a defect.
 *
 * ```ts
 * const weather = LlmToolLoop.handler(
 *   LlmTool.make("weather", { description: "…", parameters: Schema.Struct({ city: Schema.String }) }),
 *   ({ city }) => Effect.succeed({ city, celsius: 21 })
 * )
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const handler = <A, I, RA, B, E, R>(
  tool: LlmTool.TypedTool<A, I, RA>,
  run: (parameters: A, call: LlmToolCall) => Effect.Effect<B, E, R>,
  options?: { readonly onFailure?: ((error: E) => unknown) | undefined }
): Handler<R | RA> => {
  const tell = options?.onFailure ?? said
  return {
    tool,
    run: (call) =>
      Effect.matchEffect(LlmTool.decode(tool, call), {
        onFailure: (error) => Effect.succeed(failed(wrongArguments(error))),
        onSuccess: (parameters) =>
          Effect.match(run(parameters, call), {
            onFailure: (error): Answer => failed(tell(error)),
            onSuccess: (result): Answer => ({ result, isError: false })
          })
      })
  }
}

const wrongArguments = (error: ParseResult.ParseError): string =>
  `The arguments do not fit: ${ParseResult.TreeFormatter.formatErrorSync(error)}`

/**
 * What is needed of a toolkit of `@effect/ai` with its handlers: what `yield* toolkit` gives.
 *
 * @since 0.1.0
 * @category models
 */
export interface ToolkitHandlers<Name extends string, out E, out R> extends LlmTool.ToolkitTools {
  readonly handle: (
    name: Name,
    parameters: never
  ) => Effect.Effect<{ readonly isFailure: boolean; readonly encodedResult: unknown }, E, R>
}

/**
 * The tools of a `Toolkit` of `@effect/ai` with its handlers, which is what `yield* toolkit` gives. Failures are answered
 * to the model, whichever failure mode a tool has.
 *
 * @since 0.1.0
 * @category constructors
 */
export const fromToolkit = <Name extends string, E, R>(
  toolkit: ToolkitHandlers<Name, E, R>
): ReadonlyArray<Handler<R>> =>
  LlmTool.fromToolkit(toolkit).map((tool) => ({
    tool,
    run: (call) =>
      call.invalid !== undefined
        ? Effect.succeed(failed("The arguments are not JSON."))
        : // It decodes what it is given by the schema of that tool.
          Effect.match(
            withoutParameters(
              toolkit.handle(tool.name as Name, JsonSchema.withoutNulls(tool.parameters, call.arguments) as never)
            ),
            {
              onFailure: (error): Answer => failed(said(error)),
              onSuccess: ({ encodedResult, isFailure }): Answer => ({ result: encodedResult, isError: isFailure })
            }
          )
  }))

/**
 * How the loop goes.
 *
 * @since 0.1.0
 * @category models
 */
export interface LoopOptions<R = never> {
  /** How often the model is asked at most; the tools of the last answer are still run. 10. */
  readonly maxSteps?: number | undefined
  /** How many tools of one answer run at once. 5. */
  readonly concurrency?: number | "unbounded" | undefined
  /**
   * Called after each step with all that has been said since the beginning: what can be kept, so that a conversation can
   * go on from there if a later step fails.
   */
  readonly onStep?: ((step: Step) => Effect.Effect<void, never, R>) | undefined
  /** Whether the spans of tools hold arguments and results. By default not. */
  readonly captureContent?: boolean | undefined
}

/**
 * One answer of the model and what its tools answered, in the order of the calls.
 *
 * @since 0.1.0
 * @category models
 */
export interface Step {
  /** Counts from 0. */
  readonly index: number
  readonly response: LlmResponse
  readonly results: ReadonlyArray<ToolResultPart>
  /** The messages of the loop so far, without those of the request. Every call in them has its result. */
  readonly messages: ReadonlyArray<ChatMessage>
  /** Of all steps so far. */
  readonly usage: Usage
}

/**
 * How a loop ended. `finished`: the model has no more calls. `max-steps`: it may have. `unhandled`: it called a tool of the
 * request that has no handler; `pending` are the calls of that answer, none of which was run, for the caller to answer.
 *
 * @since 0.1.0
 * @category models
 */
export interface LoopResult {
  /** The last answer. */
  readonly response: LlmResponse
  readonly steps: ReadonlyArray<Step>
  /** What is to be put behind the messages of the request to go on. */
  readonly messages: ReadonlyArray<ChatMessage>
  /** Of all steps. */
  readonly usage: Usage
  readonly ended: "finished" | "max-steps" | "unhandled"
  readonly pending: ReadonlyArray<LlmToolCall>
}

/**
 * A step has ended.
 *
 * @since 0.1.0
 * @category models
 */
export interface StepPart {
  readonly type: "step"
  readonly step: Step
}

/**
 * The loop has ended: the last part of a stream that does not fail.
 *
 * @since 0.1.0
 * @category models
 */
export interface EndPart {
  readonly type: "end"
  readonly result: LoopResult
}

/**
 * One part of a streamed loop: what the model says and calls, what the tools answer (in the order of the calls), the end of
 * each step, and the end.
 *
 * @since 0.1.0
 * @category models
 */
export type LoopPart = Exclude<LlmStreamPart, FinishPart> | ToolResultPart | StepPart | EndPart

/**
 * Ids that tell calls apart over the whole conversation: servers that give none, or count them from 0 in every answer, are
 * answered by others that refuse an id twice. The call and its result are renamed alike.
 */
class Ids {
  private readonly used = new Set<string>()

  constructor(messages: ReadonlyArray<ChatMessage>) {
    for (const message of messages) {
      if (message.role !== "assistant") continue
      for (const part of message.content) if (part.type === "tool-call") this.used.add(part.id)
    }
  }

  rename(call: LlmToolCall): LlmToolCall {
    const given = call.id === "" ? "call" : call.id
    let id = given
    for (let count = 2; this.used.has(id); count++) id = `${given}_${count}`
    this.used.add(id)
    return id === call.id ? call : { ...call, id }
  }
}

/** The parts with the ids of the calls, which are the same calls in the same order. */
const renamed = (
  content: ReadonlyArray<AssistantPart>,
  calls: ReadonlyArray<LlmToolCall>
): ReadonlyArray<AssistantPart> => {
  let index = 0
  return content.map((part) => {
    if (part.type !== "tool-call") return part
    const call = calls[index++]
    return call === undefined || call.id === part.id || call.name !== part.name ? part : { ...part, id: call.id }
  })
}

const distinct = (response: LlmResponse, ids: Ids): LlmResponse => {
  if (response.toolCalls.length === 0) return response
  const toolCalls = response.toolCalls.map((call) => ids.rename(call))
  return { ...response, toolCalls, content: renamed(response.content, toolCalls) }
}

interface State {
  readonly index: number
  readonly steps: ReadonlyArray<Step>
  readonly messages: ReadonlyArray<ChatMessage>
  readonly usage: Usage
}

const start: State = { index: 0, steps: [], messages: [], usage: {} }

/** The part of the loop that is the same whether answers are whole or streamed. */
const plan = <R, R2>(
  request: LlmRequest,
  handlers: ReadonlyArray<Handler<R>>,
  options: LoopOptions<R2> | undefined
) => {
  const byName = new Map(handlers.map((each) => [each.tool.name, each]))
  const known = new Set((request.tools ?? []).map((tool) => tool.name))
  const tools = [...(request.tools ?? []), ...handlers.map(({ tool }) => tool).filter(({ name }) => !known.has(name))]
  const maxSteps = Math.max(1, Math.floor(options?.maxSteps ?? 10) || 1)

  const asked = (state: State): LlmRequest => ({
    ...request,
    ...(tools.length === 0 ? {} : { tools }),
    // A choice that forces a call would force one for ever.
    ...(state.index > 0 && request.toolChoice !== undefined && request.toolChoice !== "none"
      ? { toolChoice: "auto" as const }
      : {}),
    messages: [...request.messages, ...state.messages]
  })

  const answer = (call: LlmToolCall): Effect.Effect<Answer, never, R> => {
    const found = byName.get(call.name)
    if (found !== undefined) return found.run(call)
    const names = tools.map(({ name }) => name).join(", ")
    return Effect.succeed(
      failed(`There is no tool of this name. ${names === "" ? "There are none." : `Tools: ${names}`}`)
    )
  }

  const execute = (call: LlmToolCall): Effect.Effect<ToolResultPart, never, R> =>
    Telemetry.executed(
      { id: call.id, name: call.name, arguments: call.arguments },
      {
        description: byName.get(call.name)?.tool.description,
        captureContent: options?.captureContent === true
      },
      answer(call)
    ).pipe(
      Effect.map(({ isError, result }) => ({
        type: "tool-result" as const,
        id: call.id,
        name: call.name,
        result: result === undefined ? null : result,
        ...(isError ? { isError } : {})
      }))
    )

  /** Calls that somebody else is to answer. */
  const isUnhandled = (response: LlmResponse): boolean =>
    response.toolCalls.some(({ name }) => known.has(name) && !byName.has(name))

  const next = (
    state: State,
    response: LlmResponse,
    results: ReadonlyArray<ToolResultPart>
  ): Effect.Effect<
    { readonly state: State; readonly step: Step; readonly result: LoopResult | undefined },
    never,
    R2
  > => {
    const usage = state.index === 0 ? response.usage : addUsage(state.usage, response.usage)
    const messages: ReadonlyArray<ChatMessage> = [
      ...state.messages,
      toMessage(response),
      ...(results.length === 0 ? [] : [{ role: "tool" as const, content: results }])
    ]
    const step: Step = { index: state.index, response, results, messages, usage }
    const steps = [...state.steps, step]
    const unhandled = isUnhandled(response)
    const goesOn = !unhandled && (response.toolCalls.length > 0 || response.finish === "pause")
    const last = state.index + 1 >= maxSteps
    const result: LoopResult | undefined =
      goesOn && !last
        ? undefined
        : {
            response,
            steps,
            messages,
            usage,
            ended: unhandled ? "unhandled" : goesOn ? "max-steps" : "finished",
            pending: unhandled ? response.toolCalls : []
          }
    return Effect.as(options?.onStep === undefined ? Effect.void : options.onStep(step), {
      state: { index: state.index + 1, steps, messages, usage },
      step,
      result
    })
  }

  /** What a failed step had cost is not all: the ones before it count too. */
  const withUsage = (state: State, error: LlmError): LlmError =>
    state.index === 0 ? error : error.with({ usage: addUsage(state.usage, error.usage ?? {}) })

  const callsOf = (response: LlmResponse): ReadonlyArray<LlmToolCall> =>
    isUnhandled(response) ? [] : response.toolCalls

  return { asked, execute, next, withUsage, callsOf, concurrency: options?.concurrency ?? 5 }
}

/**
 * Runs the loop and gives the last answer. The tools of one answer run at once, as many as `concurrency` says; unknown
 * tools, wrong arguments and failures are answered to the model as errors. A `toolChoice` that forces a call holds for the
 * first step only. Fails as `generate` does, with the usage of all steps; interruption stops the tools.
 *
 * @since 0.1.0
 * @category combinators
 */
export const run = <R = never, R2 = never>(
  request: LlmRequest,
  handlers: ReadonlyArray<Handler<R>>,
  options?: LoopOptions<R2>
): Effect.Effect<LoopResult, LlmError, Llm | R | R2> =>
  Effect.flatMap(Llm, (llm) => {
    const loop = plan(request, handlers, options)
    const from = (state: State): Effect.Effect<LoopResult, LlmError, R | R2> =>
      Effect.gen(function* () {
        const asked = loop.asked(state)
        const answer = yield* Effect.mapError(llm.generate(asked), (error) => loop.withUsage(state, error))
        const response = distinct(answer, new Ids(asked.messages))
        const results = yield* Effect.forEach(loop.callsOf(response), loop.execute, { concurrency: loop.concurrency })
        const after = yield* loop.next(state, response, results)
        return after.result ?? (yield* from(after.state))
      })
    return Effect.suspend(() => from(start))
  })

/** A model that ends a stream without its finish, which none of this package does. */
const unfinished = (llm: LlmService, request: LlmRequest): LlmError =>
  new LlmError({
    reason: "StreamTruncated",
    method: "stream",
    provider: llm.provider,
    model: request.model ?? llm.model,
    issue: "the stream of parts ended without a finish",
    retryable: false,
    midStream: true
  })

/** Puts a streamed answer together while its parts go by; the finish is not for the caller of the loop. */
class Gathered {
  response: LlmResponse | undefined
  private readonly text = new TextBuffer()
  private readonly reasoning = new TextBuffer()
  private refusal: TextBuffer | undefined
  private readonly calls: Array<LlmToolCall> = []
  private readonly sources: Array<LlmSource> = []
  private readonly ids: Ids

  constructor(ids: Ids) {
    this.ids = ids
  }

  readonly take = (chunk: Chunk.Chunk<LlmStreamPart>): Chunk.Chunk<LoopPart> => {
    const parts: Array<LoopPart> = []
    for (const part of chunk) {
      if (part.type === "finish") {
        this.response = fromParts([
          { type: "text-delta", text: this.text.toString() },
          { type: "reasoning-delta", text: this.reasoning.toString() },
          ...(this.refusal === undefined ? [] : [{ type: "refusal-delta" as const, text: this.refusal.toString() }]),
          ...this.calls,
          ...this.sources,
          { ...part, content: renamed(part.content, this.calls) }
        ])
        continue
      }
      if (part.type === "text-delta") this.text.add(part.text)
      else if (part.type === "reasoning-delta") this.reasoning.add(part.text)
      else if (part.type === "refusal-delta") {
        this.refusal ??= new TextBuffer()
        this.refusal.add(part.text)
      } else if (part.type === "source") this.sources.push(part)
      else if (part.type === "tool-call") {
        const call = this.ids.rename(part)
        this.calls.push(call)
        parts.push(call)
        continue
      }
      parts.push(part)
    }
    return Chunk.unsafeFromArray(parts)
  }
}

/**
 * The same while it comes: the parts of every answer, the results of tools, the end of each step, and the end. Tools run
 * when the answer that calls them is whole.
 *
 * @since 0.1.0
 * @category combinators
 */
export const stream = <R = never, R2 = never>(
  request: LlmRequest,
  handlers: ReadonlyArray<Handler<R>>,
  options?: LoopOptions<R2>
): Stream.Stream<LoopPart, LlmError, Llm | R | R2> =>
  Stream.unwrap(
    Effect.map(Llm, (llm) => {
      const loop = plan(request, handlers, options)
      const from = (state: State): Stream.Stream<LoopPart, LlmError, R | R2> =>
        Stream.suspend(() => {
          const asked = loop.asked(state)
          const gathered = new Gathered(new Ids(asked.messages))
          const results: Array<ToolResultPart> = []
          const answer: Stream.Stream<LoopPart, LlmError> = llm.stream(asked).pipe(
            Stream.mapChunks(gathered.take),
            Stream.mapError((error) => loop.withUsage(state, error))
          )
          const tools: Stream.Stream<LoopPart, never, R> = Stream.suspend(() =>
            Stream.fromIterable(gathered.response === undefined ? [] : loop.callsOf(gathered.response)).pipe(
              Stream.mapEffect(loop.execute, { concurrency: loop.concurrency }),
              Stream.map((result) => {
                results.push(result)
                return result
              })
            )
          )
          const end: Stream.Stream<LoopPart, LlmError, R | R2> = Stream.unwrap(
            Effect.suspend((): Effect.Effect<Stream.Stream<LoopPart, LlmError, R | R2>, LlmError, R2> => {
              const { response } = gathered
              if (response === undefined) return Effect.fail(loop.withUsage(state, unfinished(llm, request)))
              return Effect.map(loop.next(state, response, results), (after) => {
                const parts: ReadonlyArray<LoopPart> =
                  after.result === undefined
                    ? [{ type: "step", step: after.step }]
                    : [
                        { type: "step", step: after.step },
                        { type: "end", result: after.result }
                      ]
                const said = Stream.fromIterable(parts)
                return after.result === undefined ? Stream.concat(said, from(after.state)) : said
              })
            })
          )
          return Stream.concat(answer, Stream.concat(tools, end))
        })
      return from(start)
    })
  )
