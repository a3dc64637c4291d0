/**
 * The local answerer: composes an answer from the sections that the search found, with citations, and says what it is.
 * It needs no key, no server and no model.
 *
 * @since 0.1.0
 */
import { Effect, Layer, Stream } from "effect"
import { Answerer, type AnswerPart, type Question, type Source } from "./Answerer.ts"
import * as Ranking from "./Ranking.ts"
import type { Purpose } from "./Runbooks.ts"

/**
 * The name under which it answers.
 *
 * @since 0.1.0
 * @category constants
 */
export const name = "local"

/** How much of a section goes into an answer that asks for nothing special, and into one that asks for just this. */
const excerptLength = 640
const fullLength = 3_200

/**
 * What belongs together: a paragraph with the lists and code after it, or, where paragraphs begin with a bold title,
 * everything up to the next title.
 */
const groupsOf = (text: string): ReadonlyArray<string> => {
  const blocks: Array<{ readonly text: string; readonly leads: boolean }> = []
  let block: Array<string> = []
  let fenced = false
  const close = () => {
    const joined = block.join("\n").trimEnd()
    block = []
    if (joined.trim() === "") return
    blocks.push({ text: joined, leads: !/^\s*(```|~~~|[-*]\s|\d+\.\s|\|)/.test(joined) })
  }
  for (const line of text.split("\n")) {
    if (/^\s*(```|~~~)/.test(line)) fenced = !fenced
    if (!fenced && line.trim() === "") close()
    else block.push(line)
  }
  close()
  const groups: Array<Array<string>> = []
  let titled = false
  for (const one of blocks) {
    const last = groups.at(-1)
    const title = one.text.startsWith("**")
    titled ||= title
    if ((titled ? title : one.leads) || last === undefined) groups.push([one.text])
    else last.push(one.text)
  }
  return groups.map((group) => group.join("\n\n"))
}

/** A list longer than this keeps the items that fit the question best. */
const maxItems = 5

const shortenList = (group: string, question: string): string => {
  const lines = group.split("\n")
  const items = lines.flatMap((line, at) => (/^([-*]|\d+\.)\s/.test(line) ? [at] : []))
  if (items.length <= maxItems || group.includes("```")) return group
  // A numbered list is in the order of importance already.
  const numbered = /^\d/.test(lines[items[0] ?? 0] ?? "")
  const ranking = Ranking.make(items.map((at) => ({ id: String(at), fields: [{ text: lines[at] ?? "", weight: 1 }] })))
  const ranked = numbered ? [] : ranking.rank(question).ranked
  const order = [...ranked.map((one) => Number(one.id)), ...items]
  const kept = new Set(Array.from(new Set(order)).slice(0, maxItems))
  let keeping = true
  return lines
    .filter((line, at) => {
      if (items.includes(at)) keeping = kept.has(at)
      else if (line.trim() === "" || !/^\s/.test(line)) keeping = true
      return keeping
    })
    .join("\n")
}

/** The groups of a section that say most about the question, in their order, up to a length. */
const excerpt = (text: string, question: string, length: number): string => {
  const groups = groupsOf(text).map((group) => (length < fullLength ? shortenList(group, question) : group))
  const ranking = Ranking.make(groups.map((group, at) => ({ id: String(at), fields: [{ text: group, weight: 1 }] })))
  const order = [0, ...ranking.rank(question).ranked.map((one) => Number(one.id)), ...groups.keys()]
  const kept = new Set<number>()
  let used = 0
  for (const at of new Set(order)) {
    const size = groups[at]?.length ?? 0
    if (kept.size > 0 && used + size > length) continue
    kept.add(at)
    used += size
  }
  return groups.filter((_, at) => kept.has(at)).join("\n\n")
}

const firstSentences = (text: string, count: number): string => {
  const paragraph = text.split(/\n\s*\n/)[0]?.replaceAll("\n", " ") ?? ""
  return paragraph
    .split(/(?<=[.!?])\s+(?=[A-Z`])/)
    .slice(0, count)
    .join(" ")
}

const introductions: Partial<Record<Purpose, string>> = {
  prevent: "To keep it from happening again",
  causes: "What usually causes it",
  diagnose: "How to find out",
  fix: "How to fix it",
  escalate: "When and to whom to hand it over",
  symptoms: "How to recognise it"
}

/**
 * The answer as text.
 *
 * @since 0.1.0
 * @category constructors
 */
export const compose = (question: Question): string => (question.sure ? composeSure(question) : composeUnsure(question))

const signature = "_Composed by the local answerer from the runbooks alone; no language model is in use._"

/** Names what is nearest and why that may be nothing, and cites no step of it as the answer. */
const composeUnsure = ({ sources, strange }: Question): string => {
  const nearest = sources.filter(
    (source, at) => sources.findIndex((one) => one.section.runbook === source.section.runbook) === at
  )
  const words = strange.slice(0, 4).map((word) => `“${word.replaceAll("_", ".")}”`)
  return [
    `I am not sure that the runbooks cover this${
      words.length === 0 ? "" : `: they do not mention ${words.join(words.length === 2 ? " or " : ", ")}`
    }. The nearest that I found:`,
    nearest
      .map(({ number, section }) => `- **${section.title}** [${number}]: ${firstSentences(section.text, 1)}`)
      .join("\n"),
    "If one of these is what you see, ask about it by its name. If not, tell me which service it is and paste the error message.",
    signature
  ].join("\n\n")
}

const composeSure = (question: Question): string => {
  const answer = question.sources.filter((source) => source.role === "answer")
  const others = question.sources.filter((source) => source.role === "related")
  const also = others.filter((source) => question.also.includes(source.number))
  const related = others.filter((source) => !question.also.includes(source.number))
  const wanted = question.purpose
  const main = wanted === undefined ? undefined : answer.find((source) => source.section.purpose === wanted)
  const parts: Array<string> = []
  if (main !== undefined) {
    const introduction = (wanted === undefined ? undefined : introductions[wanted]) ?? main.section.heading
    parts.push(`**${introduction}**, from the runbook “${question.runbook.title}” [${main.number}]:`)
    parts.push(excerpt(main.section.text, question.text, fullLength))
    const more = answer.filter((source) => source !== main)
    if (more.length > 0) {
      parts.push(`See also ${more.map((source) => `“${source.section.heading}” [${source.number}]`).join(" and ")}.`)
    }
  } else {
    parts.push(`This looks like the runbook “${question.runbook.title}” (${question.runbook.service}).`)
    for (const source of answer) parts.push(paragraphOf(source, question.text))
  }
  if (also.length > 0) {
    parts.push(
      `You also seem to ask about ${also
        .map((source) => `“${source.section.title}” [${source.number}]`)
        .join(" and ")}: ask about that in a question of its own.`
    )
  }
  if (related.length > 0) {
    parts.push(
      `If that does not fit, look at ${related
        .map((source) => `“${source.section.title}” [${source.number}]`)
        .join(" or ")}.`
    )
  }
  parts.push(signature)
  return parts.join("\n\n")
}

const paragraphOf = (source: Source, question: string): string =>
  source.section.purpose === "overview"
    ? `${firstSentences(source.section.text, 2)} [${source.number}]`
    : `**${source.section.heading}** [${source.number}]\n\n${excerpt(source.section.text, question, excerptLength)}`

/** Pieces of a few words: a long answer is shown while it is sent. */
const pieces = (text: string): ReadonlyArray<string> => text.match(/\s*\S+(?:\s+\S+){0,5}\s*/g) ?? []

/**
 * The answer as a stream.
 *
 * @since 0.1.0
 * @category constructors
 */
export const answer = (question: Question): Stream.Stream<AnswerPart> =>
  Stream.suspend(() => {
    const text = compose(question)
    return Stream.fromIterable(pieces(text)).pipe(
      Stream.map((piece): AnswerPart => ({ type: "text", text: piece })),
      Stream.rechunk(1),
      Stream.tap(() => Effect.yieldNow()),
      Stream.concat(
        Stream.succeed<AnswerPart>({
          type: "end",
          answerer: name,
          model: "extractive",
          finish: "stop",
          unsure: !question.sure
        })
      )
    )
  })

/**
 * The local answerer as the answerer of the service.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer: Layer.Layer<Answerer> = Layer.succeed(Answerer, { name, model: "extractive", answer })
