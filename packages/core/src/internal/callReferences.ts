/**
 * What belongs to one call and must not be carried by what calls share: a layer made on demand is built without it.
 */
import * as Context from "effect/Context"
import * as Tracer from "effect/Tracer"
import * as Correlation from "../operations/Correlation.ts"

/** The context without the references of the call that it was taken in, so that they read as their defaults. */
export const withoutCallReferences = (context: Context.Context<never>): Context.Context<never> =>
  Context.omit(Tracer.ParentSpan, Correlation.Current)(context as Context.Context<Tracer.ParentSpan>)
