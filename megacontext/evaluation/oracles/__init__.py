"""Scorers that look ahead: told what will be scored next, they judge every far block by it. For evaluation only.

What they show is how much the choice of blocks could give, and by which judgement of a block. None of them could serve
anybody: they know the answer, and they keep all of history as a plain cache does, no further than the model was
trained.

shadow.py     all of history as the model itself would have it, and what each row says of each block
judging.py    one layer's judgement: attention mass, change of attention's output
swap.py       the loss of the tokens ahead, with and without a block in view
scorers.py    the scorers
"""
