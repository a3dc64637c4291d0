/** The XML of S3: answers as trees, texts of requests. */
import { SaxesParser } from "saxes"

export interface Element {
  readonly name: string
  readonly children: ReadonlyArray<Element>
  readonly text: string
}

interface Open {
  readonly name: string
  readonly children: Array<Element>
  text: string
}

/** Nothing for what is not XML. Names come without their namespace's prefix. */
export const parse = (text: string): Element | undefined => {
  const parser = new SaxesParser({})
  const stack: Array<Open> = []
  let root: Element | undefined
  let failed = false
  parser.on("error", () => {
    failed = true
  })
  parser.on("opentag", (tag) => {
    const name = tag.name
    stack.push({ name: name.slice(name.indexOf(":") + 1), children: [], text: "" })
  })
  parser.on("text", (piece) => {
    const top = stack.at(-1)
    if (top !== undefined) top.text += piece
  })
  parser.on("cdata", (piece) => {
    const top = stack.at(-1)
    if (top !== undefined) top.text += piece
  })
  parser.on("closetag", () => {
    const closed = stack.pop()
    if (closed === undefined) return
    const parent = stack.at(-1)
    if (parent === undefined) root = closed
    else parent.children.push(closed)
  })
  // Long answers begin with white space, to show that somebody is there.
  parser.write(text.trimStart()).close()
  return failed ? undefined : root
}

export const child = (element: Element, name: string): Element | undefined =>
  element.children.find((one) => one.name === name)

export const textOf = (element: Element, name: string): string | undefined => child(element, name)?.text

/** Whether XML 1.0 has a way to write it. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
export const isWritable = (text: string): boolean => !/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/.test(text)

const named: Readonly<Record<string, string>> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&apos;" }

/** White space is written so that a parser leaves it as it is. */
export const escape = (text: string): string =>
  text.replace(/[&<>"'\r\n\t]/g, (char) => named[char] ?? `&#${char.charCodeAt(0)};`)
