/**
 * Markdown's text in a line as runs.
 */
import type * as Mdast from "mdast"
import * as Runs from "./runs.ts"
import { inlineElements } from "./storageRead.ts"
import * as Xml from "./xml.ts"

/** Where definitions of links are found by their identifiers. */
export type Definitions = ReadonlyMap<string, Mdast.Definition>

export const definitionsOf = (root: Mdast.Root): Definitions => {
  const found = new Map<string, Mdast.Definition>()
  const visit = (nodes: ReadonlyArray<Mdast.RootContent>): void => {
    for (const node of nodes) {
      if (node.type === "definition") {
        if (!found.has(node.identifier)) found.set(node.identifier, node)
      } else if (node.type === "blockquote" || node.type === "list" || node.type === "listItem") visit(node.children)
    }
  }
  visit(root.children)
  return found
}

const markNames: Readonly<Record<string, "emphasis" | "strong" | "delete">> = {
  em: "emphasis",
  i: "emphasis",
  strong: "strong",
  b: "strong",
  del: "delete",
  s: "delete",
  strike: "delete"
}

type Tag =
  | { readonly type: "open"; readonly name: string; readonly mark: Runs.Mark }
  | { readonly type: "close"; readonly name: string }
  | { readonly type: "leaf"; readonly leaf: Runs.Leaf }
  | { readonly type: "image"; readonly more: ReadonlyArray<readonly [string, string]> }
  | { readonly type: "comment" }

const tagCache = new Map<string, Tag | undefined>()

/** What a piece of HTML is, as far as it is known here. A few pieces are met again and again. */
const tagOf = (html: string, raw: boolean): Tag | undefined => {
  if (html.length > 200) return readTag(html, raw)
  const key = `${raw}${html}`
  if (tagCache.has(key)) return tagCache.get(key)
  const tag = readTag(html, raw)
  if (tagCache.size < 500) tagCache.set(key, tag)
  return tag
}

const readTag = (html: string, raw: boolean): Tag | undefined => {
  const hidden = Runs.commentOf(html)
  const comment = hidden !== undefined
  const text = comment ? hidden : html
  if (comment && (!raw || !text.startsWith("<"))) return { type: "comment" }
  const close = /^<\/([\w:.-]+)\s*>$/.exec(text)
  if (close !== null) return { type: "close", name: `${comment}${close[1]}` }
  const whole = Xml.tryParse(text)
  if (whole !== undefined) {
    const [node] = whole
    if (whole.length !== 1 || node === undefined || !Xml.isElement(node))
      return comment ? { type: "comment" } : undefined
    if (!comment && node.name === "br" && node.children.length === 0) return { type: "leaf", leaf: { type: "break" } }
    if (comment && node.name === "ac:image" && node.children.length === 0) {
      return { type: "image", more: node.attributes }
    }
    if (!comment && node.name !== "time") return undefined
    return { type: "leaf", leaf: { type: "raw", element: node, comment } }
  }
  if (!comment && /^<br\s*>$/.test(text)) return { type: "leaf", leaf: { type: "break" } }
  const name = /^<([\w:.-]+)/.exec(text)?.[1]
  const opened = name === undefined ? undefined : Xml.tryParse(`${text}</${name}>`)
  const node = opened?.[0]
  if (
    name === undefined ||
    opened?.length !== 1 ||
    node === undefined ||
    !Xml.isElement(node) ||
    node.children.length > 0
  ) {
    return comment ? { type: "comment" } : undefined
  }
  const simple = markNames[name]
  if (!comment && simple !== undefined) return { type: "open", name: `${comment}${name}`, mark: { type: simple } }
  if (!comment && !inlineElements.has(name)) return undefined
  return { type: "open", name: `${comment}${name}`, mark: { type: "element", element: node, comment } }
}

const spaced = (text: string | null | undefined): string =>
  (text ?? "").replace(/[ \t\r\n\f]+/g, " ").replace(/^ | $/g, "")

/** Which tags of siblings belong together, by their places. */
const pairs = (tags: ReadonlyArray<Tag | undefined>): ReadonlyMap<number, number> => {
  const found = new Map<number, number>()
  const open: Array<{ name: string; at: number }> = []
  const counts = new Map<string, number>()
  tags.forEach((tag, at): void => {
    if (tag?.type === "open") {
      open.push({ name: tag.name, at })
      counts.set(tag.name, (counts.get(tag.name) ?? 0) + 1)
    } else if (tag?.type === "close" && (counts.get(tag.name) ?? 0) > 0) {
      for (let last = open.pop(); last !== undefined; last = open.pop()) {
        counts.set(last.name, (counts.get(last.name) ?? 1) - 1)
        if (last.name === tag.name) {
          found.set(last.at, at)
          found.set(at, last.at)
          return
        }
      }
    }
  })
  return found
}

/** Nothing is deeper than what the limits of Markdown let through. */
export const read = (
  nodes: ReadonlyArray<Mdast.PhrasingContent>,
  definitions: Definitions,
  raw: boolean
): ReadonlyArray<Runs.Run> => {
  const runs: Array<Runs.Run> = []
  let links = 0
  const all = (children: ReadonlyArray<Mdast.PhrasingContent>, given: ReadonlyArray<Runs.Mark>): void => {
    const tags = children.map((child) => (child.type === "html" ? tagOf(child.value, raw) : undefined))
    const paired = tags.some((tag) => tag !== undefined) ? pairs(tags) : new Map<number, number>()
    const stack: Array<ReadonlyArray<Runs.Mark>> = []
    let marks = given
    const put = (leaf: Runs.Leaf): void => {
      runs.push({ leaf, marks })
    }
    const within = (inner: ReadonlyArray<Mdast.PhrasingContent>, mark: Runs.Mark): void =>
      all(inner, Runs.withMark(marks, mark))
    const one = (child: Mdast.PhrasingContent, at: number): undefined => {
      switch (child.type) {
        case "text":
          return void put({ type: "text", value: child.value })
        case "emphasis":
        case "strong":
        case "delete":
          return void within(child.children, { type: child.type })
        case "inlineCode":
          if (child.value.trim() === "") return
          return void put({ type: "code", value: child.value.replace(/\s/g, " ") })
        case "break":
          return void put({ type: "break" })
        case "link": {
          const mark: Runs.Mark = { type: "link", id: links++, url: child.url, title: child.title ?? undefined }
          const before = runs.length
          within(child.children, mark)
          if (Runs.tidy(runs.slice(before)).length === 0 && child.url !== "") {
            runs.push({ leaf: { type: "text", value: child.url }, marks: Runs.withMark(marks, mark) })
          }
          return
        }
        case "linkReference": {
          const to = definitions.get(child.identifier)
          if (to === undefined) return void all(child.children, marks)
          return void within(child.children, { type: "link", id: links++, url: to.url, title: to.title ?? undefined })
        }
        case "image":
        case "imageReference": {
          const to = child.type === "image" ? child : definitions.get(child.identifier)
          const tag = tags[at + 1]
          return void put({
            type: "image",
            url: to?.url ?? "",
            alt: spaced(child.alt),
            title: spaced(to?.title) || undefined,
            more: tag?.type === "image" ? tag.more : []
          })
        }
        case "html": {
          const tag = tags[at]
          if (tag === undefined) return void put({ type: "text", value: child.value })
          switch (tag.type) {
            case "open":
              if (!paired.has(at))
                return tag.name.startsWith("true") ? undefined : void put({ type: "text", value: child.value })
              stack.push(marks)
              marks = Runs.withMark(marks, tag.mark)
              return
            case "close":
              if (!paired.has(at))
                return tag.name.startsWith("true") ? undefined : void put({ type: "text", value: child.value })
              marks = stack.pop() ?? given
              return
            case "leaf":
              return void put(tag.leaf)
            case "image":
            case "comment":
              return
          }
        }
      }
    }
    for (const [at, child] of children.entries()) one(child, at)
  }
  all(nodes, [])
  return Runs.tidy(runs)
}
