/**
 * The assistant: sessions, questions answered as streams of events, and their history. It knows nothing of HTTP.
 *
 * @since 0.1.0
 */
import { ChatMessage, ConversationMemory, SessionStore } from "@underlay/core"
import {
  Array as Arr,
  Context,
  Deferred,
  Duration,
  Effect,
  Layer,
  Option,
  Schedule,
  Schema,
  type Scope,
  Stream
} from "effect"
import { type AnswerError, Answerer, type AnswerPart, type Question, type Source } from "./Answerer.ts"
import {
  type AskEvent,
  type CitedSource,
  DeltaEvent,
  DoneEvent,
  ErrorEvent,
  type HistoryMessage,
  SessionBusy,
  SessionNotFound,
  ShuttingDown,
  SourcesEvent,
  StatusEvent,
  StoreUnavailable
} from "./Conversation.ts"
import * as FollowUp from "./FollowUp.ts"
import type { Purpose, Runbook } from "./Runbooks.ts"
import { Runbooks } from "./Runbooks.ts"
import { type Found, type Hit, type RunbookHit, Search, SearchError } from "./Search.ts"

/**
 * The assistant.
 *
 * @since 0.1.0
 * @category tags
 */
export class Assistant extends Context.Tag("@underlay/examples/assistant/Assistant")<
  Assistant,
  {
    /** Opens a session and gives its id: random, and the only thing that opens it. */
    readonly createSession: Effect.Effect<string, StoreUnavailable | ShuttingDown>
    /**
     * Answers a question. What is wrong before the answer begins is a failure; what goes wrong later is the last event.
     * The stream ends with `done` or `error`, and the session takes the next question when the scope closes.
     */
    readonly ask: (
      session: string,
      question: string
    ) => Effect.Effect<
      Stream.Stream<AskEvent>,
      SessionNotFound | SessionBusy | StoreUnavailable | ShuttingDown,
      Scope.Scope
    >
    /** What was said in a session, oldest first, at most the last 200 messages. */
    readonly history: (
      session: string
    ) => Effect.Effect<ReadonlyArray<HistoryMessage>, SessionNotFound | StoreUnavailable>
    /** Takes no more questions, lets answers finish, ends those that do not with a closing event. */
    readonly drain: Effect.Effect<void>
    /** Whether it takes questions. */
    readonly accepting: Effect.Effect<boolean>
  }
>() {}

/**
 * Limits of the assistant.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** How long to wait for a store before the client is told that it is away. Default: 1.5 seconds. */
  readonly storeTimeout?: Duration.DurationInput | undefined
  /**
   * How often the store is looked at while an answer is written, so that a client does not wait for the end of an answer
   * that cannot be kept. Default: 400 milliseconds.
   */
  readonly storeCheck?: Duration.DurationInput | undefined
  /** How long a search may take. Default: 10 seconds. */
  readonly searchTimeout?: Duration.DurationInput | undefined
  /** How long answers may go on after the service was told to stop. Default: 4 seconds. */
  readonly drainFor?: Duration.DurationInput | undefined
}

const Turn = Schema.Struct({
  at: Schema.Int,
  sources: Schema.Array(
    Schema.Struct({ id: Schema.String, role: Schema.Literal("answer", "related"), score: Schema.Number })
  ),
  answerer: Schema.String,
  model: Schema.String
})
type Turn = typeof Turn.Type

/** What a session keeps beside the conversation: the runbooks of the last answer, and what each answer cited. */
const SessionState = Schema.Struct({ runbooks: Schema.Array(Schema.String), turns: Schema.Array(Turn) })
type SessionState = typeof SessionState.Type

const empty: SessionState = { runbooks: [], turns: [] }
const decodeState = Schema.decodeUnknownOption(SessionState)
const mostTurns = 100
const shownMessages = 200
const promptMessages = 8

const stateOf = (session: SessionStore.Session): SessionState => Option.getOrElse(decodeState(session), () => empty)

/** The sections from which a question is answered, numbered as they are cited. */
interface Plan {
  readonly runbook: Runbook
  readonly purpose: Purpose | undefined
  readonly runbooks: ReadonlyArray<string>
  readonly sources: ReadonlyArray<Source>
  readonly sure: boolean
  readonly strange: ReadonlyArray<string>
  readonly also: ReadonlyArray<number>
}

const explained: ReadonlyArray<Purpose> = ["overview", "causes", "diagnose", "fix"]

/** Another runbook is offered when it scores at least this part of the best one. */
const offered = 0.55

const number = (answer: ReadonlyArray<Hit>, related: ReadonlyArray<Hit>): ReadonlyArray<Source> => [
  ...answer.map(({ score, section }, at): Source => ({ number: at + 1, role: "answer", section, score })),
  ...related.map(
    ({ score, section }, at): Source => ({ number: answer.length + at + 1, role: "related", section, score })
  )
]

const planOf = (
  search: Context.Tag.Service<Search>,
  meaning: Extract<FollowUp.Meaning, { readonly _tag: "Topic" | "FollowUp" }>,
  question: string
): Plan | undefined => {
  const { purpose } = meaning
  if (meaning._tag === "FollowUp") {
    const hits = search.within(meaning.runbook, question, purpose).slice(0, purpose === undefined ? 3 : 2)
    return {
      runbook: meaning.runbook,
      purpose,
      runbooks: [meaning.runbook.id],
      sources: number(hits, []),
      sure: true,
      strange: [],
      also: []
    }
  }
  const { also, evidence, runbooks } = meaning.found
  const best = runbooks[0]
  if (best === undefined) return undefined
  if (evidence.judgement !== "sure") return nearest(meaning.found, best, purpose)
  const hits = search.within(best.runbook, question, purpose)
  const order = best.runbook.sections
  const chosen =
    purpose === undefined
      ? hits
          .filter((hit, place) => explained.includes(hit.section.purpose) || (place === 0 && hit.score > 0))
          .sort((a, b) => order.indexOf(a.section) - order.indexOf(b.section))
      : hits.slice(0, 2)
  const near = runbooks.slice(1, 3).filter((other) => other.score >= offered * best.score && !also.includes(other))
  const others = [...also, ...near].slice(0, Math.max(2, also.length))
  return {
    runbook: best.runbook,
    purpose,
    runbooks: [best.runbook.id, ...others.map((other) => other.runbook.id)],
    sure: true,
    strange: evidence.strange,
    also: also.map((_, at) => chosen.length + at + 1),
    sources: number(
      chosen.map((hit) => ({ section: hit.section, score: round(hit.score * best.score) })),
      others.flatMap((other) =>
        other.sections.slice(0, 1).map((hit) => ({ section: hit.section, score: round(hit.score * other.score) }))
      )
    )
  }
}

/** The runbooks that are nearest to a question that may be about none of them: how each begins, and nothing of its steps. */
const nearest = (found: Found, best: RunbookHit, purpose: Purpose | undefined): Plan => {
  const near = found.runbooks.slice(0, 3).filter((other) => other.score >= offered * best.score)
  return {
    runbook: best.runbook,
    purpose,
    runbooks: near.map((other) => other.runbook.id),
    sure: false,
    strange: found.evidence.strange,
    also: [],
    sources: number(
      [],
      near.flatMap(({ runbook, score }) =>
        runbook.sections.slice(0, 1).map((section) => ({ section, score: round(score) }))
      )
    )
  }
}

const round = (score: number): number => Math.round(score * 1000) / 1000

const cite = ({ number, role, score, section }: Source): CitedSource => ({
  number,
  role,
  id: section.id,
  runbook: section.runbook,
  title: section.title,
  heading: section.heading,
  text: section.text,
  score
})

const citedIn = (text: string, sources: ReadonlyArray<Source>): ReadonlyArray<number> => {
  const named = new Set(
    Array.from(text.matchAll(/\[(\d{1,2}(?:\s*,\s*\d{1,2})*)\]/g)).flatMap((match) =>
      (match[1] ?? "").split(",").map(Number)
    )
  )
  return sources.map((source) => source.number).filter((one) => named.has(one))
}

const notFound = () =>
  new SessionNotFound({ message: "There is no such session, or it has expired. Open a new one: POST /api/sessions." })

/**
 * Makes the assistant.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  options: Options = {}
): Effect.Effect<
  Context.Tag.Service<Assistant>,
  never,
  SessionStore.SessionStore | ConversationMemory.ConversationMemory | Runbooks | Search | Answerer
> =>
  Effect.gen(function* () {
    const sessions = yield* SessionStore.SessionStore
    const memory = yield* ConversationMemory.ConversationMemory
    const runbooks = yield* Runbooks
    const search = yield* Search
    const answerer = yield* Answerer
    const storeTimeout = Duration.decode(options.storeTimeout ?? "1500 millis")
    const storeCheck = Duration.decode(options.storeCheck ?? "400 millis")
    const searchTimeout = Duration.decode(options.searchTimeout ?? "10 seconds")
    const drainFor = Duration.decode(options.drainFor ?? "4 seconds")
    const closing = yield* Deferred.make<void>()
    const idle = yield* Deferred.make<void>()
    // Changed only between two steps of a fiber.
    const answering = new Set<string>()
    let draining = false

    const introduction =
      answerer.name === "local"
        ? "The local answerer answers, from the runbooks alone"
        : `${answerer.name} answers, model ${answerer.model}`
    const stopped = new ShuttingDown({ message: "The service is stopping. Ask again in a moment." })

    /** Every use of a store is bounded, and its failure is told in words that hold nothing of it. */
    const store = <A, R>(
      effect: Effect.Effect<A, SessionStore.SessionStoreError | ConversationMemory.ConversationMemoryError, R>
    ): Effect.Effect<A, StoreUnavailable | SessionNotFound, R> =>
      effect.pipe(
        Effect.timeout(storeTimeout),
        Effect.catchTags({
          TimeoutException: () =>
            new StoreUnavailable({
              message: `The session store did not answer within ${Duration.format(storeTimeout)}. Ask again in a moment.`,
              retryable: true
            }),
          SessionStoreError: (error) =>
            error.reason === "SessionGone" || error.reason === "InvalidId" ? Effect.fail(notFound()) : away(error),
          ConversationMemoryError: (error) => (error.reason === "InvalidId" ? Effect.fail(notFound()) : away(error))
        })
      )

    const away = (
      error: SessionStore.SessionStoreError | ConversationMemory.ConversationMemoryError
    ): Effect.Effect<never, StoreUnavailable> =>
      Effect.andThen(
        Effect.logWarning(`the session store failed: ${error.message}`),
        new StoreUnavailable({
          message: `The session store is not available now (${error.reason}). Nothing was lost; ask again in a moment.`,
          retryable: error.isRetryable || error.reason === "Unavailable" || error.reason === "Timeout"
        })
      )

    const createSession = Effect.gen(function* () {
      if (draining) return yield* stopped
      const id = yield* SessionStore.makeId
      yield* store(sessions.create(id, { ...empty }))
      return id
    }).pipe(Effect.catchTag("SessionNotFound", Effect.die))

    const understand = (question: string, state: SessionState): Effect.Effect<FollowUp.Meaning, SearchError> =>
      Effect.map(search.search(question), (found) =>
        FollowUp.decide({
          question,
          current: Arr.filterMap(state.runbooks, (id) => Option.fromNullable(runbooks.runbook(id))),
          found,
          recognise: search.recognise
        })
      )

    /** Keeps the question and its answer; the client is told `done` only after that. */
    const keep = (
      id: string,
      question: string,
      text: string,
      turn: Omit<Turn, "at">,
      about: ReadonlyArray<string>
    ): Effect.Effect<void, StoreUnavailable | SessionNotFound> =>
      store(
        Effect.gen(function* () {
          const kept = yield* memory.append(id, [ChatMessage.user(question), ChatMessage.assistant(text)])
          const updated = yield* sessions.update(id, (session) => {
            const state = stateOf(session)
            const next: SessionState = {
              runbooks: about.length > 0 ? about : state.runbooks,
              turns: [...state.turns, { ...turn, at: kept - 1 }].slice(-mostTurns)
            }
            return { ...session, ...Schema.encodeSync(SessionState)(next) }
          })
          return Option.isSome(updated)
        })
      ).pipe(
        Effect.filterOrFail((there) => there, notFound),
        Effect.asVoid
      )

    /** Ends with a failure when the store is away for longer than a moment, and not otherwise. */
    const storeGone = (id: string): Effect.Effect<never, StoreUnavailable> =>
      sessions.exists(id).pipe(
        Effect.retry({ schedule: Schedule.spaced("200 millis") }),
        Effect.timeout(Duration.times(storeCheck, 3)),
        Effect.catchTags({
          TimeoutException: () =>
            new StoreUnavailable({
              message:
                "The session store went away while this answer was written; it is not kept. Ask again in a moment.",
              retryable: true
            }),
          // Retried without end; the time runs out first.
          SessionStoreError: Effect.die
        }),
        Effect.repeat(Schedule.spaced(storeCheck)),
        Effect.andThen(Effect.never)
      )

    /** An answer that needs no model: a question back, or that nothing was found. */
    const say = (
      id: string,
      question: string,
      kind: "question" | "nothing",
      text: string
    ): Stream.Stream<AskEvent, StoreUnavailable | SessionNotFound> =>
      Stream.make<[SourcesEvent, DeltaEvent]>(new SourcesEvent({ sources: [] }), new DeltaEvent({ text })).pipe(
        Stream.concat(
          Stream.fromEffect(
            Effect.as(
              keep(id, question, text, { sources: [], answerer: "local", model: "none" }, []),
              new DoneEvent({ kind, answerer: "local", model: "none", finish: "stop", cited: [] })
            )
          )
        )
      )

    const unclear = (): string => {
      const examples = runbooks.all.slice(0, 3).map((runbook) => `- ${runbook.title}`)
      return [
        "What do you mean? Nothing was said before in this conversation that this could be about.",
        "Tell me which service it is, what you see (an error message helps), and since when. For example:",
        examples.join("\n")
      ].join("\n\n")
    }

    const unknown = (): string => {
      const services = Arr.dedupe(runbooks.all.map((runbook) => runbook.service))
      return [
        "I found nothing about this in the runbooks, so I will not guess.",
        `They cover: ${services.join(", ")}.`,
        "If it is about one of these, describe what you see in other words or paste the error message."
      ].join("\n\n")
    }

    const answer = (
      id: string,
      question: string,
      plan: Plan,
      history: ReadonlyArray<ChatMessage.ChatMessage>
    ): Stream.Stream<AskEvent, AnswerError | StoreUnavailable> =>
      Stream.suspend(() => {
        let text = ""
        const asked: Question = {
          text: question,
          purpose: plan.purpose,
          runbook: plan.runbook,
          sources: plan.sources,
          history,
          sure: plan.sure,
          strange: plan.strange,
          also: plan.also
        }
        const finish = (part: Extract<AnswerPart, { readonly type: "end" }>) =>
          Effect.as(
            keep(
              id,
              question,
              text,
              {
                sources: plan.sources.map(({ role, score, section }) => ({ id: section.id, role, score })),
                answerer: part.answerer,
                model: part.model
              },
              // What is only near is not what "it" means in the next question.
              part.unsure === true ? [] : plan.runbooks
            ),
            new DoneEvent({
              kind: part.unsure === true ? "unsure" : "answer",
              answerer: part.answerer,
              model: part.model,
              finish: part.finish,
              cited: citedIn(text, plan.sources),
              inputTokens: part.tokens?.input,
              outputTokens: part.tokens?.output
            })
          ).pipe(
            // The model has done its part: that its answer cannot be kept is not a failure of its stream.
            Effect.catchAll(failure)
          )
        const head: ReadonlyArray<AskEvent> = [
          new SourcesEvent({ sources: plan.sources.map(cite) }),
          new StatusEvent({ phase: "answering", message: introduction })
        ]
        return Stream.fromIterable(head).pipe(
          Stream.concat(
            Stream.mapEffect(answerer.answer(asked), (part): Effect.Effect<AskEvent> => {
              switch (part.type) {
                case "notice":
                  return Effect.succeed(new StatusEvent({ phase: "notice", message: part.text }))
                case "text":
                  text += part.text
                  return Effect.succeed(new DeltaEvent({ text: part.text }))
                case "end":
                  return finish(part)
              }
            }).pipe(Stream.interruptWhen(Effect.andThen(Effect.sleep(storeCheck), storeGone(id))))
          )
        )
      })

    const respond = (
      id: string,
      question: string,
      state: SessionState,
      history: ReadonlyArray<ChatMessage.ChatMessage>
    ): Stream.Stream<AskEvent, StoreUnavailable | SessionNotFound | AnswerError | SearchError> =>
      Stream.unwrap(
        Effect.map(
          understand(question, state).pipe(
            Effect.timeout(searchTimeout),
            Effect.catchTag("TimeoutException", searchTooSlow)
          ),
          (meaning): Stream.Stream<AskEvent, StoreUnavailable | SessionNotFound | AnswerError> => {
            if (meaning._tag === "Unclear") return say(id, question, "question", unclear())
            const plan = meaning._tag === "Unknown" ? undefined : planOf(search, meaning, question)
            return plan === undefined ? say(id, question, "nothing", unknown()) : answer(id, question, plan, history)
          }
        )
      )

    const failure = (
      error: StoreUnavailable | SessionNotFound | AnswerError | SearchError
    ): Effect.Effect<ErrorEvent> => {
      switch (error._tag) {
        case "StoreUnavailable":
          return Effect.succeed(
            new ErrorEvent({ code: "StoreUnavailable", message: error.message, retryable: error.retryable })
          )
        case "SessionNotFound":
          return Effect.succeed(
            new ErrorEvent({
              code: "StoreUnavailable",
              message: "The session ended while its answer was written; the answer is not kept. Open a new session.",
              retryable: false
            })
          )
        case "AnswerError":
          return Effect.as(
            Effect.logWarning(error.description),
            new ErrorEvent({
              code: "ModelFailed",
              message: `${error.description}. The answer is not complete and not kept. Ask again.`,
              retryable: error.isRetryable
            })
          )
        case "SearchError":
          return Effect.as(
            Effect.logWarning(error.message),
            new ErrorEvent({
              code: "SearchFailed",
              message: "The runbooks cannot be searched now. Ask again in a moment.",
              retryable: error.isRetryable
            })
          )
      }
    }

    const ask: Assistant["Type"]["ask"] = (id, question) =>
      Effect.gen(function* () {
        if (draining) return yield* stopped
        const session = yield* store(sessions.getAndTouch(id))
        if (Option.isNone(session)) return yield* notFound()
        yield* Effect.acquireRelease(
          Effect.suspend(() => {
            if (answering.has(id)) {
              return new SessionBusy({ message: "An answer is still being written in this session. Wait for its end." })
            }
            answering.add(id)
            return Effect.void
          }),
          () =>
            Effect.suspend(() => {
              answering.delete(id)
              return draining && answering.size === 0 ? Deferred.succeed(idle, undefined) : Effect.void
            })
        )
        const history = yield* store(memory.recent(id, promptMessages))
        let ended = false
        return Stream.succeed<AskEvent>(
          new StatusEvent({ phase: "searching", message: "Searching the runbooks" })
        ).pipe(
          Stream.concat(respond(id, question, stateOf(session.value), history)),
          Stream.catchAll((error) => Stream.fromEffect(failure(error))),
          Stream.catchAllCause((cause) =>
            Stream.fromEffect(
              Effect.as(
                Effect.logError("an answer failed", cause),
                new ErrorEvent({ code: "Internal", message: "The answer failed. Ask again.", retryable: true })
              )
            )
          ),
          Stream.tap((event) =>
            Effect.sync(() => {
              ended ||= event._tag === "done" || event._tag === "error"
            })
          ),
          Stream.interruptWhenDeferred(closing),
          Stream.concat(
            Stream.suspend(() =>
              ended
                ? Stream.empty
                : Stream.succeed(
                    new ErrorEvent({
                      code: "ShuttingDown",
                      message: "The service is stopping and ended this answer. Ask again in a moment.",
                      retryable: true
                    })
                  )
            )
          )
        )
      })

    const history: Assistant["Type"]["history"] = (id) =>
      Effect.gen(function* () {
        const session = yield* store(sessions.getAndTouch(id))
        if (Option.isNone(session)) return yield* notFound()
        const messages = yield* store(memory.recent(id))
        const turns = new Map(stateOf(session.value).turns.map((turn) => [turn.at, turn]))
        const shown = messages.map((message, at): HistoryMessage => {
          const turn = message.role === "assistant" ? turns.get(at) : undefined
          return {
            role: message.role === "assistant" ? "assistant" : "user",
            text: ChatMessage.textOf(message),
            answerer: turn?.answerer,
            model: turn?.model,
            sources: (turn?.sources ?? []).flatMap(({ id, role, score }, place) => {
              const section = runbooks.section(id)
              return section === undefined ? [] : [cite({ number: place + 1, role, section, score })]
            })
          }
        })
        return shown.slice(-shownMessages)
      })

    /** Also where nothing can be interrupted, as in a finalizer. */
    const idleWithin = (duration: Duration.DurationInput) =>
      Deferred.await(idle).pipe(Effect.interruptible, Effect.timeoutOption(duration))

    const drain = Effect.suspend(() => {
      draining = true
      return answering.size === 0
        ? Effect.void
        : idleWithin(drainFor).pipe(
            Effect.andThen(Deferred.succeed(closing, undefined)),
            Effect.andThen(idleWithin("500 millis")),
            Effect.asVoid
          )
    })

    return { createSession, ask, history, drain, accepting: Effect.sync(() => !draining) }
  })

const searchTooSlow = (): SearchError => new SearchError({ description: "the search took too long", isRetryable: true })

/**
 * The assistant of this service. When its scope closes it drains first.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (
  options?: Options
): Layer.Layer<
  Assistant,
  never,
  SessionStore.SessionStore | ConversationMemory.ConversationMemory | Runbooks | Search | Answerer
> => Layer.effect(Assistant, make(options))
