/**
 * What every client of an outside service is made with: one client span a call with its attempts inside, one log line,
 * metrics, a policy (deadline, retry, circuit breaker, timeouts), a check of what came back, and a health check.
 *
 * @since 0.1.0
 */
import * as HttpClientError from "@effect/platform/HttpClientError"
import * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberId from "effect/FiberId"
import * as FiberRef from "effect/FiberRef"
import * as Layer from "effect/Layer"
import * as LogLevel from "effect/LogLevel"
import * as Option from "effect/Option"
import * as ParseResult from "effect/ParseResult"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Tracer from "effect/Tracer"
import { originalOf, withheld } from "../internal/connection/withheld.ts"
import * as callMetrics from "../internal/external/callMetrics.ts"
import * as CurrentCall from "../internal/external/currentCall.ts"
import { shownError, shownExit } from "../internal/external/shownExit.ts"
import * as pipeline from "../internal/resilience/pipeline.ts"
import type { PolicyMetrics } from "../internal/resilience/policyMetrics.ts"
import { millis, shown } from "../internal/resilience/policyProblems.ts"
import * as streaming from "../internal/resilience/streaming.ts"
import * as Health from "../operations/Health.ts"
import * as Redaction from "../operations/Redaction.ts"
import type { CircuitBreaker } from "../resilience/CircuitBreaker.ts"
import type * as ErrorClass from "../resilience/ErrorClass.ts"
import * as Fallback from "../resilience/Fallback.ts"
import * as Policy from "../resilience/Policy.ts"

const invalidFields = {
  service: Schema.String,
  operation: Schema.String,
  /** Whether it did not fit the schema, or the transformation threw. */
  stage: Schema.Literal("schema", "transform"),
  issues: Schema.Array(Schema.Struct({ path: Schema.String, expected: Schema.String })),
  cause: Schema.optional(Schema.Defect)
}

/**
 * The service answered, but not with what was expected. The message names places and expectations, never values. `cause`
 * is what the transformation threw, without its words, which may quote the answer; `original` is that error itself.
 *
 * @since 0.1.0
 * @category errors
 */
export class ResponseInvalid extends Schema.TaggedError<ResponseInvalid>("@underlay/core/ResponseInvalid")(
  "ResponseInvalid",
  invalidFields
) {
  // Decoding goes through here with the same arguments. Anywhere later is too late: the schema's class keeps what it is given.
  // @effect-diagnostics-next-line overriddenSchemaConstructor:off
  constructor(properties: Schema.Struct.Constructor<typeof invalidFields>, options?: Schema.MakeOptions) {
    super(properties.cause === undefined ? properties : { ...properties, cause: withheld(properties.cause) }, options)
  }

  /** What the transformation threw, with its words: to be looked at, and not to be logged. */
  get original(): unknown {
    return originalOf(this.cause)
  }

  override get message(): string {
    const shown = this.issues
      .slice(0, 5)
      .map((issue) => `${issue.path === "" ? "the response" : issue.path}: ${issue.expected}`)
    const more = this.issues.length > 5 ? `; and ${this.issues.length - 5} more` : ""
    return `${this.service}.${this.operation}: the response is not what was expected (${shown.join("; ")}${more})`
  }
  get isRetryable(): boolean {
    return false
  }
  get errorClass(): ErrorClass.ErrorClass {
    return "permanent"
  }
}

/**
 * What a client fails with, besides the errors of the calls themselves.
 *
 * @since 0.1.0
 * @category errors
 */
export type ExternalError = Policy.PolicyError | ResponseInvalid

/**
 * The levels of the one log line of a call; `LogLevel.None` for no line.
 *
 * @since 0.1.0
 * @category models
 */
export interface LogLevels {
  /** Debug. */
  readonly success?: LogLevel.LogLevel | undefined
  /** A success that took longer than `slowAfter`. Warning. */
  readonly slow?: LogLevel.LogLevel | undefined
  /** A success that is the fallback's: the service failed. Warning. */
  readonly fallback?: LogLevel.LogLevel | undefined
  /** Error. */
  readonly failure?: LogLevel.LogLevel | undefined
  /** Refused by the policy, such as an open circuit or a full bulkhead: what led to it has its lines. Warning. */
  readonly rejected?: LogLevel.LogLevel | undefined
  /** Interrupted by the caller. Debug. */
  readonly cancelled?: LogLevel.LogLevel | undefined
}

/**
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** The name of the service, in spans, log lines, metrics, errors and health. */
  readonly service: string
  /** Settings of the policy, or a policy that is made elsewhere (and perhaps shared). */
  readonly policy?: Policy.Policy | Omit<Policy.Options, "name"> | undefined
  /** How the circuit breaker shows among the health checks; false for not at all. */
  readonly health?:
    | false
    | {
        readonly name?: string | undefined
        readonly groups?: ReadonlyArray<string> | undefined
        readonly critical?: boolean | undefined
      }
    | undefined
  /** From when a success is logged as slow. 5 seconds. For a stream: until its first element. */
  readonly slowAfter?: Duration.DurationInput | undefined
  /** What calls of one name have otherwise than the rest; what a single call says goes before it. */
  readonly operations?: Readonly<Record<string, OperationOptions>> | undefined
  /** Attributes of every span. Those whose names tell a secret are left out, and secrets in text are not shown. */
  readonly attributes?: Readonly<Record<string, unknown>> | undefined
  /** The name of a call's span; by default `service.operation`. */
  readonly spanName?: ((operation: string) => string) | undefined
  readonly logLevels?: LogLevels | undefined
}

/**
 * What all calls of one operation have in common.
 *
 * @since 0.1.0
 * @category models
 */
export interface OperationOptions extends Policy.StreamOptions, Pick<Policy.CallOptions, "attemptTimeout"> {
  readonly attributes?: Readonly<Record<string, unknown>> | undefined
  readonly spanName?: string | undefined
  /** From when a success is logged as slow. */
  readonly slowAfter?: Duration.DurationInput | undefined
}

/**
 * What a single call may say. `A` is what the effect gives, `B` what the call gives.
 *
 * @since 0.1.0
 * @category models
 */
export interface CallOptions<A = unknown, B = A> extends Policy.CallOptions {
  readonly attributes?: Readonly<Record<string, unknown>> | undefined
  readonly spanName?: string | undefined
  /** From when a success is logged as slow. */
  readonly slowAfter?: Duration.DurationInput | undefined
  /** Makes what is wanted of what came; what it throws is `ResponseInvalid`. */
  readonly transform?: ((value: A) => B) | undefined
}

/**
 * What a single stream may say; `schema` and `transform` apply to each element.
 *
 * @since 0.1.0
 * @category models
 */
export interface StreamOptions<A = unknown, B = A> extends Policy.StreamOptions {
  readonly attributes?: Readonly<Record<string, unknown>> | undefined
  readonly spanName?: string | undefined
  /** From when the wait for the first element is logged as slow. */
  readonly slowAfter?: Duration.DurationInput | undefined
  readonly transform?: ((value: A) => B) | undefined
}

/**
 * @since 0.1.0
 * @category models
 */
export interface ExternalClient {
  readonly service: string
  readonly policy: Policy.Policy
  readonly breaker: CircuitBreaker | undefined
  /** Calls under way. */
  readonly inFlight: Effect.Effect<number>
  /**
   * One call of the service: `operation` names it and must come from a small set of names. With a fallback, its errors are
   * those of the fallback.
   */
  readonly call: {
    <A, I, RS, E, R, B = A, A2 = never, E2 = never, R2 = never>(
      operation: string,
      effect: Effect.Effect<unknown, E, R>,
      options: CallOptions<A, B> & {
        readonly schema: Schema.Schema<A, I, RS>
        readonly fallback: Fallback.Fallback<E | ExternalError, A2, E2, R2, B>
      }
    ): Effect.Effect<B | A2, E2, R | RS | R2>
    <A, E, R, A2, E2, R2, B = A>(
      operation: string,
      effect: Effect.Effect<A, E, R>,
      options: CallOptions<A, B> & {
        readonly schema?: undefined
        readonly fallback: Fallback.Fallback<E | ExternalError, A2, E2, R2, B>
      }
    ): Effect.Effect<B | A2, E2, R | R2>
    <A, I, RS, E, R, B = A>(
      operation: string,
      effect: Effect.Effect<unknown, E, R>,
      options: CallOptions<A, B> & { readonly schema: Schema.Schema<A, I, RS>; readonly fallback?: undefined }
    ): Effect.Effect<B, E | ExternalError, R | RS>
    <A, E, R, B = A>(
      operation: string,
      effect: Effect.Effect<A, E, R>,
      options?: (CallOptions<A, B> & { readonly schema?: undefined; readonly fallback?: undefined }) | undefined
    ): Effect.Effect<B, E | ExternalError, R>
  }
  /**
   * One call that answers with a stream. Its span lasts as long as the stream; attempts are made, and a fallback is asked,
   * before the first element.
   */
  readonly stream: {
    <A, I, RS, E, R, B = A, A2 = never, E2 = never, R2 = never>(
      operation: string,
      stream: Stream.Stream<unknown, E, R>,
      options: StreamOptions<A, B> & {
        readonly schema: Schema.Schema<A, I, RS>
        readonly fallback: Fallback.StreamFallback<E | ExternalError, A2, E2, R2>
      }
    ): Stream.Stream<B | A2, E | ExternalError | E2, R | RS | R2>
    <A, E, R, A2, E2, R2, B = A>(
      operation: string,
      stream: Stream.Stream<A, E, R>,
      options: StreamOptions<A, B> & {
        readonly schema?: undefined
        readonly fallback: Fallback.StreamFallback<E | ExternalError, A2, E2, R2>
      }
    ): Stream.Stream<B | A2, E | ExternalError | E2, R | R2>
    <A, I, RS, E, R, B = A>(
      operation: string,
      stream: Stream.Stream<unknown, E, R>,
      options: StreamOptions<A, B> & { readonly schema: Schema.Schema<A, I, RS>; readonly fallback?: undefined }
    ): Stream.Stream<B, E | ExternalError, R | RS>
    <A, E, R, B = A>(
      operation: string,
      stream: Stream.Stream<A, E, R>,
      options?: (StreamOptions<A, B> & { readonly schema?: undefined; readonly fallback?: undefined }) | undefined
    ): Stream.Stream<B, E | ExternalError, R>
  }
}

/**
 * Makes a client. It registers its health check if there is a `Health` service, until the scope closes. Settings of a
 * policy or an operation that cannot work are a defect here; where those of a policy come from outside, make it with
 * `Policy.make`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (options: Options): Effect.Effect<ExternalClient, never, Scope.Scope> =>
  Effect.gen(function* () {
    const given = options.policy
    const policy = Policy.isPolicy(given)
      ? given
      : yield* Effect.orDie(Policy.make({ ...given, metrics: given?.metrics ?? true, name: options.service }))
    const problems = operationProblems(options.operations ?? {}, policy)
    if (problems.length > 0) yield* Effect.die(new Policy.PolicyInvalid({ policy: options.service, problems }))
    const client = new Client(options, policy)
    yield* client.observeBreaker
    if (options.health !== false) {
      yield* Health.register({
        name: options.health?.name ?? options.service,
        groups: options.health?.groups,
        critical: options.health?.critical,
        check: client.health
      })
    }
    return client
  })

/**
 * The class of a tag for one client, with a layer that makes it:
 * `class Weather extends ExternalClient.tag("app/Weather", { service: "weather" })<Weather>() {}`.
 *
 * @since 0.1.0
 * @category tags
 */
export const tag =
  <const Id extends string>(id: Id, options: Options) =>
  <Self>() => {
    const Base = Context.Tag(id)<Self, ExternalClient>()
    return Object.assign(Base, { layer: Layer.scoped(Base, make(options)) })
  }

/** What is wrong with the settings of operations, with what to write instead. */
const operationProblems = (
  operations: Readonly<Record<string, OperationOptions>>,
  policy: Policy.Policy
): ReadonlyArray<string> =>
  Object.entries(operations).flatMap(([operation, options]) => {
    const found: Array<string> = []
    const at = (name: keyof OperationOptions): string => `operations.${operation}.${name}`
    const whole = (name: "retries" | "weight" | "cost", least: number): void => {
      const value = options[name]
      if (value !== undefined && !(Number.isInteger(value) && value >= least)) {
        found.push(`${at(name)} is ${value}: give a whole number of ${least} or more`)
      }
    }
    whole("retries", 0)
    whole("weight", 1)
    whole("cost", 1)
    const total = millis(options.timeout, policy.stages.total)
    for (const name of ["timeout", "attemptTimeout", "firstElementTimeout", "idleTimeout"] as const) {
      const value = millis(options[name], Number.POSITIVE_INFINITY)
      if (!(value > 0)) found.push(`${at(name)} is not positive: give a longer one, or false for no limit`)
      else if ((name === "attemptTimeout" || name === "firstElementTimeout") && value !== Infinity && value > total) {
        found.push(
          `${at(name)} (${shown(value)}) is longer than its timeout (${shown(total)}), so it could never end an attempt: ` +
            `lower it, or raise ${at("timeout")}`
        )
      }
    }
    return found
  })

/** How a call went, as its log line and span tell it. */
class Ended {
  readonly startedAt: number
  retries = 0
  hedges = 0
  /** The retry budget refused another attempt. */
  budgetRefused = false
  /** How the fallback answered, if it was asked, and the error that led to it. */
  fallback: "success" | "failure" | undefined = undefined
  reason: unknown = undefined
  /** For a stream that got so far: milliseconds until its first element, and how many there were. */
  first: number | undefined = undefined
  elements: number | undefined = undefined
  readonly operation: string
  readonly span: Tracer.Span
  readonly metrics: callMetrics.OperationMetrics
  readonly current: CurrentCall.CurrentCall
  readonly slowAfter: number
  private readonly clock: Clock.Clock

  constructor(
    operation: string,
    span: Tracer.Span,
    metrics: callMetrics.OperationMetrics,
    current: CurrentCall.CurrentCall,
    clock: Clock.Clock,
    slowAfter: number
  ) {
    this.operation = operation
    this.span = span
    this.metrics = metrics
    this.current = current
    this.clock = clock
    this.slowAfter = slowAfter
    this.startedAt = clock.unsafeCurrentTimeMillis()
  }

  readonly onRetry = (error: unknown, delay: number, attempt: number): void => {
    this.retries++
    this.metrics.retried()
    // A transport of ours makes a span for each attempt.
    if (this.current.requests > 0) return
    this.span.event("retry", this.clock.unsafeCurrentTimeNanos(), {
      attempt,
      "error.type": typeOf(error),
      "retry.delay_ms": delay
    })
  }

  readonly onHedge = (): void => {
    this.hedges++
    if (this.current.requests === 0) this.span.event("hedge", this.clock.unsafeCurrentTimeNanos())
  }

  readonly onBudgetRefused = (): void => {
    this.budgetRefused = true
  }

  /** The fallback as part of this call: within its span, its answer counted and told of. */
  with<E, A, E2, R, V>(
    fallback: Fallback.Fallback<E, A, E2, R, V>,
    metrics: PolicyMetrics | undefined
  ): Fallback.Fallback<E, A, E2, R, V> {
    const watched = Policy.watchedFallback(fallback, (outcome) => {
      this.fallback = outcome
      metrics?.fellBack(outcome)
    })
    return {
      ...watched,
      recover: (error) => {
        this.reason = error
        return Effect.withParentSpan(watched.recover(error), this.span)
      }
    }
  }
}

/** As long as they last, nothing of the client can be interrupted but what is its caller's. */
const restored = <E, A, E2, R, V>(
  restore: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>,
  fallback: Fallback.Fallback<E, A, E2, R, V>
): Fallback.Fallback<E, A, E2, R, V> => {
  const { onSuccess, recover } = fallback
  return {
    ...fallback,
    recover: (error) => restore(Effect.suspend(() => recover(error))),
    onSuccess: onSuccess === undefined ? undefined : (value) => restore(Effect.suspend(() => onSuccess(value)))
  }
}

/** What the call says goes before what its operation says. */
const merged = <Options extends OperationOptions>(
  operation: OperationOptions | undefined,
  call: Options | undefined
): OperationOptions | undefined => {
  if (operation === undefined || call === undefined) return call ?? operation
  const said = Object.fromEntries(Object.entries(call).filter(([, value]) => value !== undefined))
  return {
    ...operation,
    ...said,
    attributes: operation.attributes === undefined ? call.attributes : { ...operation.attributes, ...call.attributes }
  }
}

class Client implements ExternalClient {
  readonly service: string
  readonly policy: Policy.Policy
  readonly inFlight: Effect.Effect<number>
  private readonly options: Options
  private readonly metrics: callMetrics.ServiceMetrics
  private readonly levels: Required<{ [K in keyof LogLevels]: LogLevel.LogLevel }>
  private readonly slowAfter: number
  private readonly spanAttributes: Readonly<Record<string, unknown>>
  private flying = 0

  constructor(options: Options, policy: Policy.Policy) {
    this.options = options
    this.service = options.service
    this.policy = policy
    this.metrics = callMetrics.make(options.service)
    this.slowAfter = Duration.toMillis(options.slowAfter ?? "5 seconds")
    this.levels = {
      success: options.logLevels?.success ?? LogLevel.Debug,
      slow: options.logLevels?.slow ?? LogLevel.Warning,
      fallback: options.logLevels?.fallback ?? LogLevel.Warning,
      failure: options.logLevels?.failure ?? LogLevel.Error,
      rejected: options.logLevels?.rejected ?? LogLevel.Warning,
      cancelled: options.logLevels?.cancelled ?? LogLevel.Debug
    }
    this.spanAttributes = { "peer.service": options.service, ...withoutSecrets(options.attributes) }
    this.inFlight = Effect.sync(() => this.flying)
  }

  /** The one in force: a reload of the policy can put another in its place. */
  get breaker(): CircuitBreaker | undefined {
    return this.policy.breaker
  }

  /** Shows the state of the breaker in force as a metric while the client lives. */
  get observeBreaker(): Effect.Effect<void, never, Scope.Scope> {
    const watching = Effect.map(Clock.currentTimeMillis, (now) =>
      this.policy.watchBreaker(now, (state) => this.metrics.circuit(state))
    )
    return Effect.asVoid(Effect.acquireRelease(watching, Effect.sync))
  }

  get health(): Effect.Effect<Health.CheckResult> {
    return Effect.gen(this, function* () {
      const orphans = yield* this.policy.orphans
      const load = { inFlight: this.flying, orphans: orphans.current }
      if (this.breaker === undefined) return Health.up({ circuit: "none", ...load })
      const seen = yield* this.breaker.snapshot
      const details = { circuit: seen.state, failures: seen.failures, opened: seen.counters.opened, ...load }
      return seen.state === "closed"
        ? Health.up(details)
        : seen.state === "half-open"
          ? Health.degraded(details)
          : Health.down(details)
    })
  }

  // Fields, so that they can be taken out of the client and passed on.
  readonly call = <A, I, RS, E, R, B = A, A2 = never, E2 = never, R2 = never>(
    operation: string,
    effect: Effect.Effect<unknown, E, R>,
    given?: CallOptions<A, B> & {
      readonly schema?: Schema.Schema<A, I, RS> | undefined
      readonly fallback?: Fallback.Fallback<E | ExternalError, A2, E2, R2, B> | undefined
    }
  ): Effect.Effect<B | A2, E | ExternalError | E2, R | RS | R2> => {
    const options = merged(this.ofOperation(operation), given)
    const checked = this.check<A, I, RS, E, R, B>(operation, effect, given)
    return Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(this.span(operation, options), (span) =>
        Effect.withFiberRuntime<B | A2, E | ExternalError | E2, R | RS | R2>((fiber) => {
          const stages = options === undefined ? this.policy.stages : Policy.override(this.policy.stages, options)
          const clock = Context.get(fiber.currentDefaultServices, Clock.Clock)
          const current: CurrentCall.CurrentCall = { owner: this, operation, requests: 0, over: false }
          const call = new Ended(operation, span, this.metrics.operation(operation), current, clock, this.slow(options))
          this.started()
          const attempted: Effect.Effect<B | A2, E | ExternalError | E2, R | RS | R2> = pipeline.masked(
            restore,
            stages,
            checked,
            {
              services: (services) => {
                services.set(Tracer.ParentSpan.key, span)
                services.set(CurrentCall.Current.key, current)
              },
              onRetry: call.onRetry,
              onHedge: call.onHedge,
              onBudgetRefused: call.onBudgetRefused,
              counted: true
            }
          )
          const answered =
            given?.fallback === undefined
              ? attempted
              : Fallback.run(
                  attempted as Effect.Effect<B, E | ExternalError, R | RS>,
                  restored(restore, call.with(given.fallback, stages.metrics))
                )
          const end = (exit: Exit.Exit<unknown, unknown>): Effect.Effect<void> => this.ended(call, exit, clock)
          return Effect.matchCauseEffect(answered, {
            onFailure: (cause) => {
              const exit = Exit.failCause(cause)
              return Effect.zipRight(end(exit), exit)
            },
            onSuccess: (value) => {
              const exit = Exit.succeed(value)
              return Effect.zipRight(end(exit), exit)
            }
          })
        })
      )
    )
  }

  readonly stream = <A, I, RS, E, R, B = A, A2 = never, E2 = never, R2 = never>(
    operation: string,
    stream: Stream.Stream<unknown, E, R>,
    given?: StreamOptions<A, B> & {
      readonly schema?: Schema.Schema<A, I, RS> | undefined
      readonly fallback?: Fallback.StreamFallback<E | ExternalError, A2, E2, R2> | undefined
    }
  ): Stream.Stream<B | A2, E | ExternalError | E2, R | RS | R2> => {
    const options = merged(this.ofOperation(operation), given)
    const checked =
      given?.schema === undefined && given?.transform === undefined
        ? (stream as Stream.Stream<B, E, R>)
        : Stream.mapEffect(stream, (element) => this.check(operation, Effect.succeed(element), given))
    return Stream.unwrapScoped(
      Effect.uninterruptibleMask((restore) =>
        Effect.gen(this, function* () {
          const scope = yield* Effect.scope
          const clock = yield* Effect.clock
          const span = yield* this.span(operation, options)
          const current: CurrentCall.CurrentCall = { owner: this, operation, requests: 0, over: false }
          const call = new Ended(operation, span, this.metrics.operation(operation), current, clock, this.slow(options))
          let failed: Cause.Cause<unknown> | undefined
          const fail = (cause: Cause.Cause<unknown>): void => {
            failed = cause
          }
          this.started()
          yield* Scope.addFinalizerExit(scope, (exit) =>
            this.ended(
              call,
              failed !== undefined ? Exit.failCause(failed) : Exit.isFailure(exit) ? givenUp(exit) : Exit.void,
              clock
            )
          )
          const stages = () => Policy.streamStages(this.policy.stages, options)
          const observer: streaming.Observer = {
            onRetry: call.onRetry,
            onHedge: call.onHedge,
            onBudgetRefused: call.onBudgetRefused,
            counted: true,
            inside: (context) =>
              Context.add(Context.add(context, Tracer.ParentSpan, span), CurrentCall.Current, current),
            onFirst: () => {
              call.first = clock.unsafeCurrentTimeMillis() - call.startedAt
              call.elements = 0
            },
            onElements: (count) => {
              call.elements = (call.elements ?? 0) + count
            },
            onBroken: fail
          }
          if (given?.fallback !== undefined) {
            const attempted: Stream.Stream<B, E | ExternalError, R | RS> = streaming.run(stages, checked, observer)
            const answered: Stream.Stream<B | A2, E | ExternalError | E2, R | RS | R2> = Fallback.runStream(
              attempted,
              call.with(given.fallback, this.policy.stages.metrics)
            )
            return Stream.tapErrorCause(answered, (cause) => Effect.sync(() => fail(cause)))
          }
          const pull: streaming.Pull<B, E | ExternalError, R | RS> = yield* restore(
            streaming.open(stages, checked, observer)
          ).pipe(Effect.tapErrorCause((cause) => Effect.sync(() => fail(cause))))
          return Stream.repeatEffectChunkOption(pull)
        })
      )
    )
  }

  private ofOperation(name: string): OperationOptions | undefined {
    const { operations } = this.options
    return operations !== undefined && Object.hasOwn(operations, name) ? operations[name] : undefined
  }

  private slow(options: { readonly slowAfter?: Duration.DurationInput | undefined } | undefined): number {
    return options?.slowAfter === undefined ? this.slowAfter : Duration.toMillis(options.slowAfter)
  }

  private span(
    operation: string,
    options:
      | { readonly attributes?: Readonly<Record<string, unknown>> | undefined; readonly spanName?: string | undefined }
      | undefined
  ): Effect.Effect<Tracer.Span> {
    return Effect.makeSpan(options?.spanName ?? this.options.spanName?.(operation) ?? `${this.service}.${operation}`, {
      kind: "client",
      captureStackTrace: false,
      attributes:
        options?.attributes === undefined
          ? this.spanAttributes
          : { ...this.spanAttributes, ...withoutSecrets(options.attributes) }
    })
  }

  private check<A, I, RS, E, R, B>(
    operation: string,
    effect: Effect.Effect<unknown, E, R>,
    options:
      | {
          readonly schema?: Schema.Schema<A, I, RS> | undefined
          readonly transform?: ((value: A) => B) | undefined
        }
      | undefined
  ): Effect.Effect<B, E | ResponseInvalid, R | RS> {
    const schema = options?.schema
    const transform = options?.transform
    const service = this.service
    const decoded =
      schema === undefined
        ? (effect as Effect.Effect<A, E, R>)
        : Effect.flatMap(effect, (value) =>
            Effect.mapError(
              ParseResult.decodeUnknown(schema)(value),
              (issue) => new ResponseInvalid({ service, operation, stage: "schema", issues: expectations(issue) })
            )
          )
    if (transform === undefined) return decoded as unknown as Effect.Effect<B, E | ResponseInvalid, R | RS>
    return Effect.flatMap(decoded, (value) =>
      Effect.try({
        try: () => transform(value),
        catch: (cause) =>
          new ResponseInvalid({
            service,
            operation,
            stage: "transform",
            issues: [{ path: "", expected: "a value that the transformation accepts" }],
            cause
          })
      })
    )
  }

  private started(): void {
    this.flying++
    this.metrics.inFlight(1)
  }

  /** Metrics, the log line, the end of the span: once a call, whatever became of it. */
  private ended(call: Ended, exit: Exit.Exit<unknown, unknown>, clock: Clock.Clock): Effect.Effect<void> {
    this.flying--
    this.metrics.inFlight(-1)
    call.current.over = true
    const took = clock.unsafeCurrentTimeMillis() - call.startedAt
    const failure = Exit.isFailure(exit) ? Cause.failureOption(exit.cause) : Option.none()
    const outcome: callMetrics.Outcome = Exit.isSuccess(exit)
      ? "success"
      : Option.isSome(failure)
        ? isRejection(failure.value)
          ? "rejected"
          : "failure"
        : Cause.isInterrupted(exit.cause) && !Cause.isDie(exit.cause)
          ? "cancelled"
          : "failure"
    call.metrics.ended(outcome, took)
    const slow = outcome === "success" && (call.first ?? took) > call.slowAfter
    const fellBack = outcome === "success" && call.fallback === "success"
    const level = fellBack ? this.levels.fallback : slow ? this.levels.slow : this.levels[outcome]
    return Effect.withFiberRuntime((fiber) => {
      const { span } = call
      if (call.retries > 0) span.attribute("call.retries", call.retries)
      if (call.hedges > 0) span.attribute("call.hedges", call.hedges)
      if (call.budgetRefused) span.attribute("call.retry_budget_exhausted", true)
      if (call.fallback !== undefined) {
        span.attribute("call.fallback", call.fallback)
        span.attribute("call.fallback_reason", typeOf(call.reason))
      }
      if (call.first !== undefined) span.attribute("call.first_element_ms", call.first)
      if (call.elements !== undefined) span.attribute("call.elements", call.elements)
      span.attribute("call.outcome", outcome)
      const shown = Exit.isFailure(exit)
        ? describe(exit.cause)
        : fellBack
          ? describe(Cause.fail(call.reason))
          : undefined
      if (shown !== undefined && Exit.isFailure(exit) && outcome !== "cancelled")
        span.attribute("error.type", shown.type)
      const minimum = fiber.getFiberRef(FiberRef.currentMinimumLogLevel)
      const line =
        level._tag === "None" || LogLevel.lessThan(level, minimum)
          ? Effect.void
          : this.log(call, level, outcome, took, slow, shown)
      return Effect.andThen(line, () => span.end(clock.unsafeCurrentTimeNanos(), shownExit(exit)))
    })
  }

  private log(
    call: Ended,
    level: LogLevel.LogLevel,
    outcome: callMetrics.Outcome,
    took: number,
    slow: boolean,
    shown: { readonly tag: string; readonly message: string } | undefined
  ): Effect.Effect<void> {
    const name = `${this.service}.${call.operation}`
    const what =
      outcome === "success"
        ? slow
          ? "was slow"
          : "succeeded"
        : outcome === "cancelled"
          ? "was cancelled"
          : outcome === "rejected"
            ? "was refused"
            : "failed"
    const attempts = call.retries + call.hedges + 1
    const after =
      (attempts > 1 ? ` after ${attempts} attempts` : "") +
      (call.budgetRefused ? " (the retry budget is exhausted)" : "") +
      (call.fallback === undefined || outcome === "cancelled"
        ? ""
        : call.fallback === "success"
          ? ", answered by the fallback"
          : ", and so did the fallback")
    const why = shown === undefined || outcome === "cancelled" ? "" : `: ${shown.tag}: ${shown.message}`
    return Effect.logWithLevel(level, `${name} ${what}${after} (${Math.round(took)} ms)${why}`).pipe(
      Effect.annotateLogs({
        service: this.service,
        operation: call.operation,
        outcome,
        durationMs: took,
        attempts,
        ...(call.budgetRefused ? { retryBudget: "exhausted" } : {}),
        ...(call.fallback === undefined ? {} : { fallback: call.fallback }),
        ...(shown === undefined || outcome === "cancelled" ? {} : { error: shown.tag }),
        ...(call.first === undefined ? {} : { firstElementMs: call.first }),
        ...(call.elements === undefined ? {} : { elements: call.elements })
      }),
      Effect.provideService(Tracer.ParentSpan, call.span)
    )
  }
}

/** What ended a stream that had not failed itself: whoever read it was interrupted, or failed, and that is theirs. */
const givenUp = (exit: Exit.Failure<unknown, unknown>): Exit.Exit<never> =>
  Exit.failCause(
    Cause.isInterruptedOnly(exit.cause) ? (exit.cause as Cause.Cause<never>) : Cause.interrupt(FiberId.none)
  )

const isRejection = (error: unknown): boolean =>
  typeof error === "object" && error !== null && (error as { readonly rejection?: unknown }).rejection === true

/** Type, tag and message of what went wrong, without secrets. */
const describe = (
  cause: Cause.Cause<unknown>
): { readonly type: string; readonly tag: string; readonly message: string } => {
  const error = Option.getOrElse(Cause.failureOption(cause), () => Cause.squash(cause))
  return { type: typeOf(error), ...shownError(error) }
}

/** The `error.type` of OpenTelemetry: a status of HTTP, or the error's `reason` if it is a name, or its tag. */
const typeOf = (error: unknown): string => {
  const reason: unknown = typeof error === "object" && error !== null ? Reflect.get(error, "reason") : undefined
  if (HttpClientError.isHttpClientError(error) && error._tag === "ResponseError" && error.reason === "StatusCode") {
    return String(error.response.status)
  }
  return typeof reason === "string" && /^[A-Za-z][\w-]{0,63}$/.test(reason) ? reason : Redaction.error(error).tag
}

const withoutSecrets = (
  attributes: Readonly<Record<string, unknown>> | undefined
): Readonly<Record<string, unknown>> =>
  attributes === undefined
    ? {}
    : Object.fromEntries(
        Object.entries(attributes)
          .filter(([name, value]) => value !== undefined && !Redaction.isSecretName(name))
          .map(([name, value]) => [
            name,
            typeof value === "string"
              ? Redaction.text(value)
              : typeof value === "object"
                ? Redaction.json(value)
                : value
          ])
      )

interface Expectation {
  readonly path: string
  readonly expected: string
}

/**
 * Where the response is not what it should be, and what was expected there. Told from the schema alone: the messages of
 * issues repeat the values that came.
 */
const expectations = (
  issue: ParseResult.ParseIssue,
  path: ReadonlyArray<PropertyKey> = []
): ReadonlyArray<Expectation> => {
  const here = (expected: string): ReadonlyArray<Expectation> => [{ path: path.map(String).join("."), expected }]
  switch (issue._tag) {
    case "Pointer":
      return expectations(issue.issue, path.concat(issue.path))
    case "Composite":
      return Arr.ensure(issue.issues).flatMap((each) => expectations(each, path))
    case "Refinement":
      return issue.kind === "Predicate" ? here(`expected ${issue.ast}`) : expectations(issue.issue, path)
    case "Transformation":
      return issue.kind === "Transformation" ? here(`expected ${issue.ast}`) : expectations(issue.issue, path)
    case "Missing":
      return here("is missing")
    case "Unexpected":
      return here("is unexpected")
    case "Forbidden":
      return here("cannot be decoded without waiting")
    case "Type":
      return here(`expected ${issue.ast}`)
  }
}
