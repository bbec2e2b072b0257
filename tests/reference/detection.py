"""Average precision as the VOC development kit computes it."""

import numpy as np


def development_kit(predictions, truths, k, threshold, eleven_point):
    """The definition, read slowly: VOCevaldet.m and VOCap.m, line by line, with inclusive corners, areas with + 1,
    one detection at a time."""
    detections = [
        (score, n, [*box[:2], *(box[2:] - 1)])
        for n, image in enumerate(predictions)
        for score, box, c in zip(image["scores"], image["boxes"], image["classes"], strict=True)
        if c == k
    ]
    detections.sort(key=lambda row: -row[0])
    objects = [
        [
            {"box": [*box[:2], *(box[2:] - 1)], "difficult": difficult, "found": False}
            for box, c, difficult in zip(image["boxes"], image["classes"], image["difficult"], strict=True)
            if c == k
        ]
        for image in truths
    ]
    positives = sum(not o["difficult"] for image in objects for o in image)
    if not positives:
        return None
    right, wrong, recall, precision = 0, 0, [], []
    for _, n, box in detections:
        best, chosen = -np.inf, None
        for candidate in objects[n]:
            other = candidate["box"]
            width = min(box[2], other[2]) - max(box[0], other[0]) + 1
            height = min(box[3], other[3]) - max(box[1], other[1]) + 1
            if width > 0 and height > 0:
                area = (box[2] - box[0] + 1) * (box[3] - box[1] + 1)
                area += (other[2] - other[0] + 1) * (other[3] - other[1] + 1)
                overlap = width * height / (area - width * height)
                if overlap > best:
                    best, chosen = overlap, candidate
        if best >= threshold:
            if not chosen["difficult"]:
                right += not chosen["found"]
                wrong += chosen["found"]
                chosen["found"] = True
        else:
            wrong += 1
        if right + wrong:
            recall.append(right / positives)
            precision.append(right / (right + wrong))
    if eleven_point:
        levels = [tenth / 10 for tenth in range(11)]
        return sum(max((p for r, p in zip(recall, precision, strict=True) if r >= t), default=0) / 11 for t in levels)
    recall, precision = [0, *recall, 1], [0, *precision, 0]
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    return sum((recall[i] - recall[i - 1]) * precision[i] for i in range(1, len(recall)))
