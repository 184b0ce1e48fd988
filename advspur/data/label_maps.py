"""Facts about labels: ImageNet's class order and its maps to ImageNet-9, ObjectNet, RIVAL10.

A map is an array with the group of each of the 1000 ImageNet indices, -1 where it has none.
"""

import functools
from importlib import resources

import numpy as np

NUM_IMAGENET_CLASSES = 1000

# Backgrounds challenge (Xiao et al., ICLR 2021): superclass directories in label order, and the
# ImageNet indices that count as each. 171, 172 (two dogs) and 281-285 (cats) are left out.
IMAGENET9 = {
    "00_dog": "151-170 173-268",
    "01_bird": "7-24 87-100 127-146",
    "02_wheeled vehicle": "407-408 428 436 444 468 511 547 555 561 565 569 573 586 603 609 612 627 "
    "656 661 665 670-671 675 690 705 717 734 751 757 791 802-803 817 820 829 847 864 866-867 870 "
    "880",
    "03_reptile": "33-68",
    "04_carnivore": "269-280 286-299 356-362 387-388",
    "05_insect": "300-326",
    "06_musical instrument": "401-402 420 432 486 494 513 541 546 558 566 577 579 593-594 641-642 "
    "683-684 687 699 776 822 875 881 889",
    "07_primate": "365-384",
    "08_fish": "0-6 389-397",
}

# RIVAL10 (Moayeri et al., CVPR 2022): the classes in label order, not CIFAR-10's, each two wnids.
RIVAL10 = {
    "truck": ("n03796401", "n04467665"),
    "car": ("n02814533", "n03100240"),
    "plane": ("n02690373", "n04552348"),
    "ship": ("n03673027", "n03095699"),
    "cat": ("n02123394", "n02124075"),
    "dog": ("n02099712", "n02099601"),
    "equine": ("n02389026", "n02391049"),
    "deer": ("n02423022", "n02422699"),
    "frog": ("n01644900", "n01644373"),
    "bird": ("n01531178", "n01532829"),
}

# ObjectNet (Barbu et al., NeurIPS 2019): the image folders of the 113 classes that overlap ImageNet
# and the indices that count as right for each, 125 in all.
_OBJECTNET = """
alarm_clock 409 530, backpack 414, banana 954, band_aid 419, basket 790, full_sized_towel 434,
beer_bottle 440, bench 703, bicycle 444 671, binder_closed 446, bottle_cap 455, bread_loaf 930,
broom 462, bucket 463, butchers_knife 499, can_opener 473, candle 470, cellphone 487, chair 423
559 765, clothes_hamper 588, coffee_french_press 550, combination_lock 507, computer_mouse 673,
desk_lamp 846, hand_towel_or_rag 533, doormat 539, dress 578, dress_shoe_men 630, drill 740,
drinking_cup 968, drying_rack_for_dishes 729, envelope 549, fan 545, frying_pan 567, hair_dryer
589, hammer 587, helmet 518 560, iron_for_clothes 606, jeans 608, keyboard 508, ladle 618,
lampshade 619, laptop_open 620, lemon 951, letter_opener 623, lighter 626, lipstick 629, match
644, measuring_cup 647, microwave 651, mixing_salad_bowl 659, monitor 664, mug 504,
nail_fastener 677, necklace 679, orange 950, padlock 695, paintbrush 696, paper_towel 700, pen
418 563 749, pill_bottle 720, pillow 721, pitcher 725, plastic_bag 728, plate 923, plunger 731,
pop_can 737, portable_heater 811, printer 742, remote_control 761, ruler 769, running_shoe 770,
safety_pin 772, salt_shaker 773, sandal 774, screw 783, shovel 792, skirt 601 655 689,
sleeping_bag 797, soap_dispenser 804, sock 806, soup_bowl 809, spatula 813, speaker 632,
still_camera 732 759, strainer 828, stuffed_animal 850, suit_jacket 834, sunglasses 837, sweater
841, swimming_trunks 842, t-shirt 610, tv 851, teapot 849, tennis_racket 752, tie 457 906,
toaster 859, toilet_paper_roll 999, trash_bin 412, tray 868, umbrella 879, vacuum_cleaner 882,
vase 883, wallet 893, watch 531, water_bottle 898, weight_exercise 543, weight_scale 778, wheel
479 694, whistle 902, wine_bottle 907, winter_glove 658, wok 909
"""
OBJECTNET = {
    entry.split()[0]: tuple(map(int, entry.split()[1:])) for entry in _OBJECTNET.split(",")
}


@functools.cache
def imagenet_wnids():
    """The 1000 wnids in the order of the model outputs (ascending)."""
    return tuple((resources.files("advspur.data") / "imagenet_wnids.txt").read_text().split())


@functools.cache
def imagenet_names():
    """The 1000 short English names in the order of the model outputs, no two alike."""
    return tuple((resources.files("advspur.data") / "imagenet_names.txt").read_text().splitlines())


def imagenet9_map():
    """[1000] superclass of each ImageNet index."""
    return _index_map(
        [i for part in ranges.split() for i in _span(part)] for ranges in IMAGENET9.values()
    )


def objectnet_map():
    """[1000] ObjectNet class (position in OBJECTNET) of each ImageNet index."""
    return _index_map(OBJECTNET.values())


# Classes whose accuracy is measured apart: [1000] bool.
SUBSETS = {"objectnet": lambda: objectnet_map() >= 0}


def rival10_labels():
    """wnid -> RIVAL10 label."""
    return {wnid: label for label, wnids in enumerate(RIVAL10.values()) for wnid in wnids}


def _span(part):
    first, _, last = part.partition("-")
    return range(int(first), int(last or first) + 1)


def _index_map(groups):
    found = np.full(NUM_IMAGENET_CLASSES, -1)
    for group, indices in enumerate(groups):
        found[list(indices)] = group
    return found
