/**
 * What belongs to one call and must not be carried by what calls share: a layer made on demand is built without it.
 */
import * as Context from "effect/Context"
import * as Tracer from "effect/Tracer"
import * as Correlation from "../operations/Correlation.ts"
import * as Deadline from "../resilience/Deadline.ts"
import * as CurrentCall from "./external/currentCall.ts"
import * as RetryFrame from "./resilience/retryFrame.ts"

/** The context without the references of the call that it was taken in, so that they read as their defaults. */
export const withoutCallReferences = (context: Context.Context<never>): Context.Context<never> =>
  Context.omit(
    Tracer.ParentSpan,
    Correlation.Current,
    Deadline.Current,
    CurrentCall.Current,
    RetryFrame.Current
  )(context as Context.Context<Tracer.ParentSpan>)
